"""How many tokens go through the decoder at a time."""

from collections.abc import Sequence

from torch import nn

from lorachain.inference.prefix_cache import PrefixCache
from lorachain.tokens import packed_groups, token_budget_groups
from lorachain.weights.attention_choice import takes_packed_rows, takes_segments
from lorachain.weights.load import text_decoder

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
