"""Which prompts have a beginning in common, so that it is computed once.

Two kinds of sharing, as few-shot exams have both. The worked examples of a subject begin hundreds of prompts: such a
prefix is cached (`prefix_groups`). The stem of a question begins only its few samples, each with its own order of the
options: these go through one forward pass as a prefix tree (`families`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lorachain.inference.prefix_cache import MIN_PREFIX_TOKENS, common_prefix
from lorachain.inference.prefix_tree import PrefixTree

SHARED_BY = 32
"""A prefix is cached where so many prompts have it, or all do; with fewer, families share what they have in common."""
_MIN_SAVED = 16
"""A prompt joins a family where that saves so many tokens: prompts without continuations need no attention mask."""


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Prompts that begin with the same `prefix`, which is empty where they share too little."""

    prefix: tuple[int, ...]
    families: list[list[int]]
    """Indices of the prompts, longest first. Those of one family have more in common than the prefix."""


def prefix_groups(prompts: Sequence[list[int]]) -> list[PrefixGroup]:
    """Every prompt in one group, whose prefix is the longest that the prompt shares with SHARED_BY - 1 others.

    A prefix leaves each prompt at least one id.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    members: dict[tuple[int, ...], list[int]] = {}
    for index, length in zip(order, _shared_lengths([prompts[i] for i in order]), strict=True):
        members.setdefault(tuple(prompts[index][: length if length >= MIN_PREFIX_TOKENS else 0]), []).append(index)
    groups = [PrefixGroup(prefix, families(prompts, group, len(prefix))) for prefix, group in members.items()]
    return sorted(groups, key=lambda group: -len(prompts[group.families[0][0]]))


def _shared_lengths(ordered: list[list[int]]) -> list[int]:
    """Per prompt, of prompts in lexicographic order, the length of the longest prefix that enough prompts share."""
    if len(ordered) == 1:
        return [len(ordered[0]) - 1]
    size = min(SHARED_BY, len(ordered))  # prompts in a window; all of a window share what its neighbours share
    adjacent = [common_prefix(pair) for pair in pairwise(ordered)]
    windows = [min(adjacent[start : start + size - 1]) for start in range(len(ordered) - size + 1)]
    return [max(windows[max(0, i - size + 1) : i + 1]) for i in range(len(ordered))]


def families(prompts: Sequence[list[int]], ordered: Sequence[int], start: int) -> list[list[int]]:
    """Prompts in lexicographic order, grouped where a shared beginning after index `start` saves tokens."""
    grouped: list[list[int]] = []
    saved = 0
    for index in ordered:
        if grouped:
            joined = [*grouped[-1], index]
            # In lexicographic order all share what the first and the last share.
            saving = len(grouped[-1]) * (common_prefix([prompts[joined[0]], prompts[index]]) - start)
            if saving >= saved + _MIN_SAVED:
                grouped[-1], saved = joined, saving
                continue
        grouped.append([index])
        saved = 0
    return sorted(grouped, key=lambda family: (-max(len(prompts[i]) for i in family), family))


def family_tree(prompts: Sequence[list[int]]) -> PrefixTree:
    """The prompts of one family as a tree; one prompt alone is its prefix."""
    if len(prompts) == 1:
        return PrefixTree(prompts[0])
    shared = common_prefix(prompts)
    return PrefixTree(prompts[0][:shared], [prompt[shared:] for prompt in prompts])


def tree_paths(tree: PrefixTree) -> list[list[int]]:
    """The indices of each prompt's ids in `family_tree`, in the order of the prompts."""
    prefix = list(range(len(tree.prefix)))
    if not tree.continuations:
        return [prefix]
    starts = zip(tree.starts, tree.continuations, strict=True)
    return [[*prefix, *range(start, start + len(continuation))] for start, continuation in starts]
