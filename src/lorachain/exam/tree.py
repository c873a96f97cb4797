"""Several continuations of one stem, computed with the stem once; how they lie in lines, and who sees whom.

The branches stand behind their stem, each with positions that go on from the stem's. A token sees its stem and its own
branch only, so that each stem + branch comes out as it would alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count

import torch
from torch import Tensor

_PADDING = -1


@dataclass(frozen=True, slots=True)
class Tree:
    """A stem of at least one id, and branches that may be empty."""

    stem: list[int]
    branches: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stem) + sum(len(branch) for branch in self.branches)

    @property
    def starts(self) -> list[int]:
        """Where each branch begins, counted from the tree's first id."""
        return list(accumulate((len(branch) for branch in self.branches), initial=len(self.stem)))[:-1]

    def path(self, branch: int) -> list[int]:
        """Places in the tree that hold the stem's last token and then the branch's: where its next tokens are read."""
        start = self.starts[branch]
        return [len(self.stem) - 1, *range(start, start + len(self.branches[branch]))]


@dataclass(frozen=True, slots=True)
class TokenLines:
    """Trees in B lines of T ids; padding on the right is seen by padding only."""

    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(B, T) int64: a branch goes on from its stem, whatever stands between them."""
    parts: Tensor
    """(B, T) int64: stems and branches, numbered through; -1 is padding."""
    stems: Tensor
    """(B, T) int64: the part that is the stem of each token's tree."""
    begins: list[tuple[int, int]]
    """Of each tree: its line, and the place there of its first id."""
    packed: bool
    """Whether all trees stand in one line."""

    @classmethod
    def of(cls, trees: Sequence[Tree], first_position: int, device: torch.device, *, packed: bool) -> "TokenLines":
        """All trees in one line, or each in a line of its own."""
        if packed:
            *starts, width = accumulate(map(len, trees), initial=0)
            begins, shape = [(0, start) for start in starts], (1, width)
        else:
            begins, shape = [(line, 0) for line in range(len(trees))], (len(trees), max(map(len, trees)))
        ids = torch.zeros(shape, dtype=torch.int64)
        positions = torch.arange(first_position, first_position + shape[1]).repeat(shape[0], 1)
        parts, stems = torch.full((2, *shape), _PADDING, dtype=torch.int64)
        number = count()
        for tree, (line, begin) in zip(trees, begins, strict=True):
            stem, stem_end = next(number), first_position + len(tree.stem)
            whole = slice(begin, begin + len(tree))
            ids[line, whole] = torch.tensor([*tree.stem, *(i for branch in tree.branches for i in branch)])
            stems[line, whole] = parts[line, whole] = stem
            positions[line, begin : begin + len(tree.stem)] = torch.arange(first_position, stem_end)
            for start, branch in zip(tree.starts, tree.branches, strict=True):
                own = slice(begin + start, begin + start + len(branch))
                parts[line, own] = next(number)
                positions[line, own] = torch.arange(stem_end, stem_end + len(branch))
        return cls(ids.to(device), positions.to(device), parts.to(device), stems.to(device), begins, packed)

    def sees(
        self, window: int | None, prefix: tuple[int, int] | None = None, read: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Who sees whom, (B, 1, Q, P + T), True for "seen".

        Args:
            window: how many positions back a token sees, itself counted; None: all. The distance is that of positions,
                not of places in the line: a branch's token is as near to its stem as it would be alone.
            prefix: (first, end) of the P positions that stand before every line.
            read: lines and places, (B, Q) each, of the tokens that look; None: all T of every line.
        """
        everyone = (self.positions, self.parts, self.stems)
        position, part, stem = everyone if read is None else (tensor[read] for tensor in everyone)
        distance = position[:, :, None] - self.positions[:, None, :]  # (B, Q, T)
        keys = self.parts[:, None, :]
        seen = (distance >= 0) & ((keys == part[:, :, None]) | (keys == stem[:, :, None]))
        if window is not None:
            seen &= distance < window
        if prefix is not None:
            past = position[:, :, None] - torch.arange(*prefix, device=position.device)  # (B, Q, P)
            seen = torch.cat([past < window if window is not None else past > 0, seen], dim=-1)
        return seen[:, None]
