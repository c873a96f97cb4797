"""Several continuations of one prefix in one sequence, so that the prefix is computed once.

The continuations follow the prefix one after another, and the positions of each start where the prefix ends. A token
attends to the prefix and to its own continuation, so prefix and continuation give the result that they give alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, count

import torch
from torch import Tensor

_PADDING = -1


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A prefix of at least one id, and its continuations, which may be empty."""

    prefix: list[int]
    continuations: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.continuations))

    @property
    def starts(self) -> list[int]:
        """Index of each continuation's first id."""
        return list(accumulate(map(len, self.continuations), initial=len(self.prefix)))[:-1]

    def path(self, continuation: int) -> list[int]:
        """Indices of the prefix's last id and of the continuation's ids: the hidden states there predict its tokens."""
        start = self.starts[continuation]
        return [len(self.prefix) - 1, *range(start, start + len(self.continuations[continuation]))]


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Trees in B batch rows of T ids, padded on the right. Only padding attends to padding."""

    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(B, T) int64: the positions of a continuation start where its prefix ends."""
    segments: Tensor
    """(B, T) int64: prefixes and continuations, numbered consecutively; -1 is padding."""
    prefix_segments: Tensor
    """(B, T) int64: the segment that is the prefix of each token's tree."""
    offsets: list[tuple[int, int]]
    """Per tree: its batch row, and the index of its first id there."""
    packed: bool
    """Whether all trees share one batch row."""

    @classmethod
    def of(cls, trees: Sequence[PrefixTree], first_position: int, device: torch.device, *, packed: bool) -> "TreeBatch":
        """All trees in one batch row, or each in its own."""
        if packed:
            *starts, width = accumulate(map(len, trees), initial=0)
            offsets, shape = [(0, start) for start in starts], (1, width)
        else:
            offsets, shape = [(row, 0) for row in range(len(trees))], (len(trees), max(map(len, trees)))
        ids = torch.zeros(shape, dtype=torch.int64)
        positions = torch.arange(first_position, first_position + shape[1]).repeat(shape[0], 1)
        segments, prefix_segments = torch.full((2, *shape), _PADDING, dtype=torch.int64)
        numbers = count()
        for tree, (row, offset) in zip(trees, offsets, strict=True):
            prefix_segment, prefix_end = next(numbers), first_position + len(tree.prefix)
            span = slice(offset, offset + len(tree))
            ids[row, span] = torch.tensor([*tree.prefix, *chain.from_iterable(tree.continuations)])
            prefix_segments[row, span] = segments[row, span] = prefix_segment
            positions[row, offset : offset + len(tree.prefix)] = torch.arange(first_position, prefix_end)
            for start, continuation in zip(tree.starts, tree.continuations, strict=True):
                span = slice(offset + start, offset + start + len(continuation))
                segments[row, span] = next(numbers)
                positions[row, span] = torch.arange(prefix_end, prefix_end + len(continuation))
        return cls(
            ids.to(device), positions.to(device), segments.to(device), prefix_segments.to(device), offsets, packed
        )

    def attention(
        self, window: int | None, cached: tuple[int, int] | None = None, queries: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The attention mask (B, 1, Q, P + T), True where a query attends to a key.

        Args:
            window: how many positions a token attends to, itself included; None: all. Distances are between positions,
                not between indices in the batch row: a continuation's token is as near to its prefix as it is alone.
            cached: (first, end) of the P positions of a cached prefix that precedes every batch row.
            queries: batch rows and indices of the queries, (B, Q) each; None: all T of every batch row.
        """
        of_tokens = (self.positions, self.segments, self.prefix_segments)
        position, segment, prefix = of_tokens if queries is None else (tensor[queries] for tensor in of_tokens)
        distance = position[:, :, None] - self.positions[:, None, :]  # (B, Q, T)
        keys = self.segments[:, None, :]
        allowed = (distance >= 0) & ((keys == segment[:, :, None]) | (keys == prefix[:, :, None]))
        if window is not None:
            allowed &= distance < window
        if cached is not None:
            distance = position[:, :, None] - torch.arange(*cached, device=position.device)  # (B, Q, P)
            allowed = torch.cat([distance < window if window is not None else distance > 0, allowed], dim=-1)
        return allowed[:, None]
