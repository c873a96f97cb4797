"""Several continuations of one prefix, with the prefix computed once: their layout in a batch and their attention.

The continuations follow their prefix, and the positions of each continue from the prefix's end. A token attends to its
prefix and its own continuation only, so each prefix + continuation gives the result that it would give alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, count

import torch
from torch import Tensor

_PADDING = -1


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A prefix of at least one id, and continuations that may be empty."""

    prefix: list[int]
    continuations: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.continuations))

    @property
    def starts(self) -> list[int]:
        """Index in the tree of each continuation's first id."""
        return list(accumulate(map(len, self.continuations), initial=len(self.prefix)))[:-1]

    def path(self, continuation: int) -> list[int]:
        """Indices in the tree of the prefix's last token and of the continuation's: where its tokens are predicted."""
        start = self.starts[continuation]
        return [len(self.prefix) - 1, *range(start, start + len(self.continuations[continuation]))]


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Trees in B batch rows of T ids, padded on the right; only padding attends to padding."""

    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(B, T) int64: a continuation's positions continue from its prefix."""
    parts: Tensor
    """(B, T) int64: prefixes and continuations, numbered consecutively; -1 is padding."""
    prefixes: Tensor
    """(B, T) int64: the part that is the prefix of each token's tree."""
    begins: list[tuple[int, int]]
    """Per tree: its batch row and the index of its first id there."""
    packed: bool
    """Whether all trees share one batch row."""

    @classmethod
    def of(cls, trees: Sequence[PrefixTree], first_position: int, device: torch.device, *, packed: bool) -> "TreeBatch":
        """All trees in one batch row, or each in its own."""
        if packed:
            *starts, width = accumulate(map(len, trees), initial=0)
            begins, shape = [(0, start) for start in starts], (1, width)
        else:
            begins, shape = [(row, 0) for row in range(len(trees))], (len(trees), max(map(len, trees)))
        ids = torch.zeros(shape, dtype=torch.int64)
        positions = torch.arange(first_position, first_position + shape[1]).repeat(shape[0], 1)
        parts, prefixes = torch.full((2, *shape), _PADDING, dtype=torch.int64)
        number = count()
        for tree, (row, begin) in zip(trees, begins, strict=True):
            prefix, prefix_end = next(number), first_position + len(tree.prefix)
            whole = slice(begin, begin + len(tree))
            ids[row, whole] = torch.tensor([*tree.prefix, *chain.from_iterable(tree.continuations)])
            prefixes[row, whole] = parts[row, whole] = prefix
            positions[row, begin : begin + len(tree.prefix)] = torch.arange(first_position, prefix_end)
            for start, continuation in zip(tree.starts, tree.continuations, strict=True):
                own = slice(begin + start, begin + start + len(continuation))
                parts[row, own] = next(number)
                positions[row, own] = torch.arange(prefix_end, prefix_end + len(continuation))
        return cls(ids.to(device), positions.to(device), parts.to(device), prefixes.to(device), begins, packed)

    def attention(
        self, window: int | None, cached: tuple[int, int] | None = None, read: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The attention mask (B, 1, Q, P + T), True where a query attends to a key.

        Args:
            window: how many positions a token attends to, itself included; None: all. Distances are between positions,
                not indices in the batch row: a continuation's token is as near to its prefix as it would be alone.
            cached: (first, end) of the P positions of a cached prefix that precedes every batch row.
            read: batch rows and indices, (B, Q) each, of the queries; None: all T of every batch row.
        """
        queries = (self.positions, self.parts, self.prefixes)
        position, part, prefix = queries if read is None else (tensor[read] for tensor in queries)
        distance = position[:, :, None] - self.positions[:, None, :]  # (B, Q, T)
        keys = self.parts[:, None, :]
        seen = (distance >= 0) & ((keys == part[:, :, None]) | (keys == prefix[:, :, None]))
        if window is not None:
            seen &= distance < window
        if cached is not None:
            past = position[:, :, None] - torch.arange(*cached, device=position.device)  # (B, Q, P)
            seen = torch.cat([past < window if window is not None else past > 0, seen], dim=-1)
        return seen[:, None]
