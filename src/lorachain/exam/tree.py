"""Several continuations of one stem in one sequence: the stem is computed once.

The branches stand behind the stem, each with positions that go on from the stem's, and an attention mask lets a token
see its stem and its own branch only. Result: the hidden states that each stem + branch would have alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.exam.masks import as_attention_mask, causal_masks
from lorachain.exam.prefix import KeyValues, SharedPrefix
from lorachain.weights.load import text_decoder

_PADDING = -1


@dataclass(frozen=True, slots=True)
class Tree:
    """One line: a stem of at least one id, and branches that may be empty."""

    stem: list[int]
    branches: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stem) + sum(len(branch) for branch in self.branches)

    @property
    def starts(self) -> list[int]:
        """Where each branch begins in the line."""
        return list(accumulate((len(branch) for branch in self.branches), initial=len(self.stem)))[:-1]

    def path(self, branch: int) -> list[int]:
        """Places in the line that hold the stem's last token and then the branch's: where its next tokens are read."""
        start = self.starts[branch]
        return [len(self.stem) - 1, *range(start, start + len(self.branches[branch]))]


def tree_hidden(
    model: nn.Module,
    trees: Sequence[Tree],
    read: Sequence[Sequence[int]],
    store: KeyValues | None = None,
) -> Tensor:
    """Final hidden states (N, H) at the places `read[i]` of each line i, in that order.

    Lines are padded on the right to the longest; padding is seen by padding only. Where `store` holds a prefix, every
    stem goes on from it. Run it within `evaluating`.
    """
    decoder = text_decoder(model)
    device = next(decoder.parameters()).device
    prefix = store.prefix if store is not None else None
    begin = prefix.length if prefix is not None else 0
    width = max(len(tree) for tree in trees)
    ids = torch.zeros((len(trees), width), dtype=torch.int64)  # (B, T)
    positions = torch.arange(begin, begin + width).repeat(len(trees), 1)  # (B, T)
    branch_of = torch.full((len(trees), width), _PADDING, dtype=torch.int64)  # (B, T), 0 is the stem
    for line, tree in enumerate(trees):
        ids[line, : len(tree)] = torch.tensor([*tree.stem, *(i for branch in tree.branches for i in branch)])
        branch_of[line, : len(tree.stem)] = 0
        stem_end = begin + len(tree.stem)
        for number, (start, branch) in enumerate(zip(tree.starts, tree.branches, strict=True), start=1):
            end = start + len(branch)
            branch_of[line, start:end] = number
            positions[line, start:end] = torch.arange(stem_end, stem_end + len(branch))
    masks: Mapping[str, Tensor | None] = causal_masks(decoder, width, device)
    if prefix is not None or bool((branch_of > 0).any()):
        masks = tree_masks(decoder, positions.to(device), branch_of.to(device), prefix)
    hidden: Tensor = decoder(  # (B, T, H)
        input_ids=ids.to(device),
        attention_mask=masks,
        position_ids=positions.to(device),
        past_key_values=store,
        use_cache=False,
    ).last_hidden_state
    lines = torch.tensor([line for line, places in enumerate(read) for _ in places], dtype=torch.int64)
    places = torch.tensor([place for places in read for place in places], dtype=torch.int64)
    return hidden[lines.to(device), places.to(device)]


def tree_masks(
    decoder: nn.Module, positions: Tensor, branch_of: Tensor, prefix: SharedPrefix | None = None
) -> dict[str, Tensor]:
    """The decoder's attention masks (B, 1, T, P + T) by kind of layer, from positions and branches (B, T).

    The sliding window counts distance in positions, not places in the line: a branch's token is as near to its stem as
    it would be alone.
    """
    distance = positions[:, :, None] - positions[:, None, :]  # (B, T query, T key)
    key, query = branch_of[:, None, :], branch_of[:, :, None]
    own = (distance >= 0) & ((key == query) | ((key == 0) & (query > 0)))
    window = cast(PretrainedConfig, decoder.config).sliding_window
    masks = {"full_attention": own, "sliding_attention": own & (distance < window)}
    if prefix is not None:
        for kind, first in prefix.first.items():
            past = torch.arange(first, prefix.length, device=positions.device)
            seen = positions[:, :, None] - past < (window if kind == "sliding_attention" else positions.max() + 1)
            masks[kind] = torch.cat([seen, masks[kind]], dim=-1)
    return {kind: as_attention_mask(decoder, mask[:, None]) for kind, mask in masks.items()}
