"""Keys and values of a prefix that many prompts share, computed once.

The five worked examples before a question are the same 1,500 tokens for every question of a subject. With their keys
and values cached, each question costs only its own tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.masks import causal_masks
from lorachain.weights.load import text_decoder

MIN_PREFIX_TOKENS = 32
"""Shorter prefixes are not cached: without a prefix the attention needs no mask, which saves more."""


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """How many leading ids all sequences share, at most one less than the shortest has."""
    first, last = min(sequences), max(sequences)  # in lexicographic order: all share what these two share
    limit = min(map(len, sequences)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))


class KeyValues:
    """The keys and values of one forward pass, given to the decoder as `past_key_values`.

    Each layer attends to the cached prefix, where there is one, and to the new keys and values. They are kept for what
    is generated after them; with `keep` False, where nothing is, each layer's are freed once it has run.
    """

    def __init__(self, prefix_cache: "PrefixCache | None" = None, *, keep: bool = True) -> None:
        self.prefix_cache = prefix_cache
        self.keep = keep
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values without the prefix, (B, kv heads, T, head size)
        self.offsets: list[tuple[int, int]] = []  # per sequence: its batch row and its first index there

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        if self.keep:
            self.layers.append((key, value))
        if self.prefix_cache is None:
            return key, value
        past_key, past_value = self.prefix_cache.layers[layer]
        batch = key.shape[0]
        return (
            torch.cat([past_key.expand(batch, -1, -1, -1), key], dim=2),
            torch.cat([past_value.expand(batch, -1, -1, -1), value], dim=2),
        )


class _PrefixKeyValues(KeyValues):
    """Of each layer only what later tokens attend to, copied as soon as the layer has computed it."""

    def __init__(self, first: Sequence[int]) -> None:
        super().__init__()
        self.first = first  # per layer, the position of the first id that is kept

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        self.layers.append((_from(key, self.first[layer]), _from(value, self.first[layer])))
        return key, value


def _from(tensor: Tensor, first: int) -> Tensor:
    """The positions from `first` on of (B, kv heads, T, head size), in memory of its own where some are left out."""
    return tensor[:, :, first:].clone(memory_format=torch.contiguous_format) if first else tensor.contiguous()


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """A prefix of `length` ids, with keys and values (1, kv heads, P', head size) per layer.

    P' is the length of the prefix in a layer with full attention and at most window - 1 in a layer with sliding
    attention: no later token attends further back.
    """

    length: int
    layers: list[tuple[Tensor, Tensor]]
    first_position: dict[str, int]
    """By layer type, the position of the first cached id."""


def compute_prefix_cache(model: nn.Module, ids: Sequence[int]) -> PrefixCache | None:
    """Runs the decoder over `ids` once; None for fewer than MIN_PREFIX_TOKENS. Call it within `eval_mode`."""
    if len(ids) < MIN_PREFIX_TOKENS:
        return None
    decoder = text_decoder(model)
    config = cast(PretrainedConfig, decoder.config)
    first = {"full_attention": 0, "sliding_attention": max(0, len(ids) - config.sliding_window + 1)}
    key_values = _PrefixKeyValues([first[kind] for kind in config.layer_types])
    device = next(decoder.parameters()).device
    decoder(
        input_ids=torch.tensor([list(ids)], device=device),
        attention_mask=causal_masks(decoder, len(ids), device),
        position_ids=torch.arange(len(ids), device=device)[None],
        past_key_values=key_values,
        use_cache=False,
    )
    return PrefixCache(len(ids), key_values.layers, first)
