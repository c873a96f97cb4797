"""What the ids of packed prefix trees attend to, as runs of queries and their keys instead of a mask."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from lorachain.inference.prefix_cache import PrefixCache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.weights.segments import KINDS, Segments, runs_of_keys, segment_options


def tree_options(
    decoder: nn.Module,
    trees: Sequence[PrefixTree],
    prefix_cache: PrefixCache | None,
    device: torch.device,
    read: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """A decoder's options for trees that follow one another in one batch row.

    Args:
        prefix_cache: precedes every tree.
        read: of each tree the indices that are queries, in their order; None: all.
    """
    config = cast(PretrainedConfig, decoder.config)
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    segments: dict[str, Segments] = {}
    for kind in KINDS:
        cached = prefix_cache.length - prefix_cache.first_position[kind] if prefix_cache is not None else 0
        segments[kind] = tree_segments(trees, cached, windows[kind], device, read)
    return segment_options(segments)


def tree_segments(
    trees: Sequence[PrefixTree],
    cached: int,
    window: int | None,
    device: torch.device,
    read: Sequence[Sequence[int]] | None = None,
) -> Segments:
    """Of trees whose ids follow one another, behind `cached` keys that all of them share."""
    runs: list[tuple[int, list[range]]] = []
    offset = cached
    for number, tree in enumerate(trees):
        indices = range(len(tree)) if read is None else read[number]
        for start, first, last in _runs(tree, indices):
            own = range(offset + start, offset + last + 1)
            before = [range(cached)] if start == 0 else [range(cached), range(offset, offset + len(tree.prefix))]
            count = last - first + 1
            runs.append((count, _nearest([*before, own], None if window is None else window - 1 + count)))
        offset += len(tree)
    segments = runs_of_keys(runs, device)
    in_place = cached == 0 and read is None and not any(tree.continuations for tree in trees)
    return replace(segments, key_index=None) if in_place else segments


def _runs(tree: PrefixTree, indices: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive indices in one prefix or continuation: its start, the first and the last index."""
    starts = [0, *tree.starts]
    run: tuple[int, int, int] | None = None
    for index in indices:
        start = starts[bisect_right(starts, index) - 1]
        if run is not None and (start, index) == (run[0], run[2] + 1):
            run = (*run[:2], index)
            continue
        if run is not None:
            yield run
        run = (start, index, index)
    if run is not None:
        yield run


def _nearest(ranges: Sequence[range], count: int | None) -> list[range]:
    """The last `count` indices of consecutive ranges; None: all."""
    if count is None:
        return list(ranges)
    kept: list[range] = []
    for indices in reversed(ranges):
        taken = indices[max(0, len(indices) - count) :]
        kept.insert(0, taken)
        count -= len(taken)
    return kept
