"""Keys and values of what many prompts begin with, computed once.

Five worked examples before a question are the same 1,500 tokens for every question of a profession: each question then
costs its own tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.masks import causal_masks
from lorachain.weights.load import text_decoder

WORTH_SHARING = 32
"""Fewer common tokens are computed anew: a line without a prefix needs no mask, which is cheaper."""


def common_prefix(rows: Sequence[list[int]]) -> int:
    """How many ids all rows begin with, leaving each row at least one of its own."""
    first, last = min(rows), max(rows)  # in lexicographic order: what these two share, all share
    limit = min(map(len, rows)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))


class KeyValues:
    """What a decoder's attention layers are handed as `past_key_values`: puts a prefix before each line's own keys and
    values, and keeps the line's own."""

    def __init__(self, prefix_cache: "PrefixCache | None" = None) -> None:
        self.prefix_cache = prefix_cache
        self.own: list[tuple[Tensor, Tensor]] = []  # per layer, each (B, kv heads, T, head size)
        self.begins: list[tuple[int, int]] = []  # where in (B, T) each sequence begins

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        self.own.append((key, value))
        if self.prefix_cache is None:
            return key, value
        past_key, past_value = self.prefix_cache.layers[layer]
        batch = key.shape[0]
        return (
            torch.cat([past_key.expand(batch, -1, -1, -1), key], dim=2),
            torch.cat([past_value.expand(batch, -1, -1, -1), value], dim=2),
        )


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """A prefix of `length` ids; per layer its keys and values (1, kv heads, P', head size).

    P' is the whole prefix in a layer of full attention, and the last window - 1 ids in a sliding one: no later token
    sees further back.
    """

    length: int
    layers: list[tuple[Tensor, Tensor]]
    first: dict[str, int]
    """By kind of layer, the position of the first id that is kept."""


def compute_prefix_cache(model: nn.Module, ids: Sequence[int]) -> PrefixCache | None:
    """Runs the decoder over `ids` once; None where they are too few to be worth it. Run it within `eval_mode`."""
    if len(ids) < WORTH_SHARING:
        return None
    decoder = text_decoder(model)
    config = cast(PretrainedConfig, decoder.config)
    store = KeyValues()
    device = next(decoder.parameters()).device
    decoder(
        input_ids=torch.tensor([list(ids)], device=device),
        attention_mask=causal_masks(decoder, len(ids), device),
        position_ids=torch.arange(len(ids), device=device)[None],
        past_key_values=store,
        use_cache=False,
    )
    first = {"full_attention": 0, "sliding_attention": max(0, len(ids) - config.sliding_window + 1)}
    layers = [
        (key[:, :, first[kind] :].contiguous(), value[:, :, first[kind] :].contiguous())
        for kind, (key, value) in zip(config.layer_types, store.own, strict=True)
    ]
    return PrefixCache(len(ids), layers, first)
