"""Which keys each query attends to, without a mask: runs of queries, each with the keys that it ends at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

KINDS = ("full_attention", "sliding_attention")
NO_MASKS: dict[str, None] = dict.fromkeys(KINDS)
"""Passed to a decoder as its masks, so that it makes none."""


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """N runs of queries, one after another, and the keys of each.

    The last query of a run attends to all keys of the run, each query before it to one key less, and with a window of W
    to the last W of these. A run has at least as many keys as queries. This is what FlashAttention computes from
    `cu_seqlens` (Dao 2023, arXiv 2307.08691).
    """

    query_bounds: Tensor
    """(N + 1,) int32: where each run of queries starts, and the end of the last."""
    key_bounds: Tensor
    """(N + 1,) int32, of the keys."""
    longest_queries: int
    longest_keys: int
    key_index: Tensor | None = None
    """(total keys,) int64: which keys of the layer the runs' keys are, one run after another; None: all, in order."""
    block_masks: dict[int | None, Any] = field(default_factory=dict)
    """By window, what `flex_attention` needs; made once for all layers."""


def own_sequences(bounds: Tensor, longest: int) -> Segments:
    """Each sequence attends to itself. `bounds` is (N + 1,) int32."""
    return Segments(bounds, bounds, longest, longest)


def equal_rows(rows: int, queries: int, keys: int, device: torch.device) -> Segments:
    """Batch rows of equal length without padding; each has `keys` keys, the last ones its queries' own."""
    counts = torch.arange(rows + 1, dtype=torch.int32, device=device)
    return Segments(counts * queries, counts * keys, queries, keys)


def runs_of_keys(runs: Sequence[tuple[int, Sequence[range]]], device: torch.device) -> Segments:
    """Segments from the number of queries of each run, and the ranges of its keys' indices."""
    queries = [count for count, _ in runs]
    keys = [sum(map(len, ranges)) for _, ranges in runs]
    pieces = [torch.arange(r.start, r.stop) for _, ranges in runs for r in ranges]
    return Segments(
        _bounds(queries, device), _bounds(keys, device), max(queries), max(keys), torch.cat(pieces).to(device)
    )


def sequence_options(bounds: Tensor, longest: int) -> dict[str, Any]:
    """A decoder's options for one batch row of sequences that do not attend to each other."""
    return segment_options(dict.fromkeys(KINDS, own_sequences(bounds, longest)))


def segment_options(segments: Mapping[str, Segments]) -> dict[str, Any]:
    """A decoder's options for segments by layer type."""
    return {"attention_mask": NO_MASKS, "segments": segments}


def _bounds(counts: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32).to(device)
