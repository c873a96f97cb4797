"""How many tokens go through the decoder at a time."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from torch import nn

from lorachain.errors import DeviceError
from lorachain.inference.prefix_cache import PrefixCache
from lorachain.inference.shared_work import share_groups
from lorachain.memory import is_out_of_memory, release
from lorachain.tokens import packed_groups, token_budget_groups
from lorachain.weights.attention_choice import takes_packed_rows, takes_segments
from lorachain.weights.load import is_sharded, text_decoder

R = TypeVar("R")

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""Larger batches are slower on a CPU: their activations no longer fit in its caches, and matrix products of this size
already use all of it (gemma-3-270m in bf16 on one core, 6,416 tokens: 5.7 s at 1,024, 6.3 at 2,048, 7.8 at 4,096)."""


def packs_sequences(decoder: nn.Module, prefix_cache: PrefixCache | None) -> bool:
    """Whether sequences share a batch row.

    They do where the attention keeps them apart. On a CPU not behind a prefix cache: packing was slower than padding
    there (docs/benchmarks.md).
    """
    return takes_segments(decoder) or (prefix_cache is None and takes_packed_rows(decoder))


def forward_groups(
    model: nn.Module, lengths: Sequence[int], token_budget: int, prefix_cache: PrefixCache | None = None
) -> list[list[int]]:
    """Indices of sequences, longest first, in groups of at most `token_budget` tokens (on a CPU at most CPU_TOKENS).

    Padding counts where each sequence has its own batch row. A sequence longer than the budget is a group by itself.
    """
    decoder = text_decoder(model)
    on_cpu = next(decoder.parameters()).device.type == "cpu"
    budget = min(token_budget, CPU_TOKENS) if on_cpu else token_budget
    if not packs_sequences(decoder, prefix_cache):
        return token_budget_groups(lengths, budget)
    return packed_groups(lengths, budget)


def map_in_groups(
    model: nn.Module,
    lengths: Sequence[int],
    token_budget: int,
    compute: Callable[[list[int]], Sequence[R]],
    prefix_cache: PrefixCache | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[R]:
    """The result for each sequence; `compute` returns those for the sequences of a group of `forward_groups`.

    Within `shared_inference` the groups are shared out. A group that does not fit in the device's memory is computed
    again in groups of half its tokens, and so are those after it. Of a model whose layers are sharded none is repeated:
    the other processes would wait in the middle of a layer.

    Args:
        on_progress: called with the number of finished sequences.

    Raises:
        DeviceError: a single sequence does not fit.
    """

    def own(groups: list[list[int]], report: Callable[[int], None]) -> dict[int, R]:
        results: dict[int, R] = {}
        while groups:
            computed: list[R] = []
            group = groups[0]
            if fits(model, partial(_append, compute, group, computed)):
                groups = groups[1:]
                results.update(zip(group, computed, strict=True))
                report(len(results))
            else:
                budget = _half(model, [lengths[i] for i in group])
                left = sorted(i for group in groups for i in group)
                smaller = forward_groups(model, [lengths[i] for i in left], budget, prefix_cache)
                groups = [[left[i] for i in group] for group in smaller]
        return results

    by_index = share_groups(forward_groups(model, lengths, token_budget, prefix_cache), own, on_progress)
    return [by_index[i] for i in range(len(lengths))]


def _append(compute: Callable[[list[int]], Sequence[R]], group: list[int], computed: list[R]) -> None:
    computed += compute(group)


def _half(model: nn.Module, lengths: Sequence[int]) -> int:
    """Half the tokens of a group that did not fit, without its padding."""
    device, tokens = next(text_decoder(model).parameters()).device, sum(lengths)
    if len(lengths) == 1:
        raise DeviceError(
            f"out of memory on {device}: one sequence of {tokens:,} tokens does not fit next to the model; use a "
            "device with more memory, or one that no other process uses"
        )
    logger.warning("out of memory on %s: at most %s tokens are computed at a time from here on", device, tokens // 2)
    return tokens // 2


def fits(model: nn.Module, run: Callable[[], None]) -> bool:
    """Calls `run`; False where it ran out of the device's memory, which is then released.

    Of a model whose layers are sharded the error is raised: nothing of it can be repeated.
    """
    try:
        run()
    except RuntimeError as error:
        if is_sharded(model) or not is_out_of_memory(error):
            raise
    else:
        return True
    release()  # not within `except`: the error's frames hold what did not fit
    return False
