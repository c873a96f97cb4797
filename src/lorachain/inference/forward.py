"""The decoder's forward pass over prefix trees: hidden states at the tokens that are read."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.batching import packs_sequences
from lorachain.inference.masks import as_attention_mask, causal_masks
from lorachain.inference.prefix_cache import KeyValues, PrefixCache
from lorachain.inference.prefix_tree import PrefixTree, TreeBatch
from lorachain.inference.tree_segments import tree_options
from lorachain.weights.attention_choice import takes_segments
from lorachain.weights.last_layer import last_layer_only_at
from lorachain.weights.load import text_decoder


def hidden_states(
    model: nn.Module,
    trees: Sequence[PrefixTree],
    read: Sequence[Sequence[int]],
    key_values: KeyValues | None = None,
) -> Tensor:
    """Final hidden states (N, H) at the indices `read[i]` of each tree i, in that order. Call it within `eval_mode`.

    All trees share one batch row without padding where `packs_sequences`; otherwise each has its own. `key_values`
    collects keys and values; every tree continues from its prefix cache, if it has one.
    """
    decoder = text_decoder(model)
    prefix_cache = key_values.prefix_cache if key_values is not None else None
    first_position = prefix_cache.length if prefix_cache is not None else 0
    device = next(decoder.parameters()).device
    batch = TreeBatch.of(trees, first_position, device, packed=packs_sequences(decoder, prefix_cache))
    if key_values is not None:
        key_values.offsets = batch.offsets
    columns: list[list[int]] = [[] for _ in batch.ids]  # of each batch row, the indices that are read
    for (row, offset), indices in zip(batch.offsets, read, strict=True):
        columns[row] += [offset + index for index in indices]
    most = max(map(len, columns))
    # Most of the last layer's work is outside its keys and values. Where few tokens are read, it computes only those.
    narrow = 2 * most <= batch.ids.shape[1]
    with _last_layer_at(decoder, batch, trees, prefix_cache, columns, read) if narrow else nullcontext():
        hidden: Tensor = decoder(  # (B, T, H), or (B, most, H) where narrow
            input_ids=batch.ids,
            position_ids=batch.positions,
            past_key_values=key_values,
            use_cache=False,
            **_attention_options(decoder, batch, trees, prefix_cache),
        ).last_hidden_state
    cells = [
        (row, column)
        for row, row_columns in enumerate(columns)
        for column in (range(len(row_columns)) if narrow else row_columns)
    ]
    return hidden[tuple(torch.tensor(cells, dtype=torch.int64, device=device).view(-1, 2).T)]


def _attention_options(
    decoder: nn.Module, batch: TreeBatch, trees: Sequence[PrefixTree], prefix_cache: PrefixCache | None
) -> dict[str, Any]:
    """Masks and bounds, or what takes their place, for the decoder's attention."""
    if takes_segments(decoder):
        return tree_options(decoder, trees, prefix_cache, batch.ids.device)
    masks = _masks(decoder, batch, trees, prefix_cache)
    return {"attention_mask": masks, **_bounds(batch, map(len, trees))}


def _windows(decoder: nn.Module) -> dict[str, int | None]:
    """The attention window of each layer type."""
    return {"full_attention": None, "sliding_attention": cast(PretrainedConfig, decoder.config).sliding_window}


def _masks(
    decoder: nn.Module, batch: TreeBatch, trees: Sequence[PrefixTree], prefix_cache: PrefixCache | None
) -> Mapping[str, Tensor | None]:
    """Attention masks by layer type; None where the attention needs none."""
    plain = prefix_cache is None and not any(tree.continuations for tree in trees)
    if plain and not batch.packed:
        return causal_masks(decoder, batch.ids.shape[1], batch.ids.device)
    longest = max(map(len, trees))
    masks: dict[str, Tensor | None] = {}
    for kind, window in _windows(decoder).items():
        if plain and (window is None or longest <= window):
            masks[kind] = None
        else:
            masks[kind] = as_attention_mask(decoder, batch.attention(window, _cached_span(prefix_cache, kind)))
    return masks


def _cached_span(prefix_cache: PrefixCache | None, kind: str) -> tuple[int, int] | None:
    return None if prefix_cache is None else (prefix_cache.first_position[kind], prefix_cache.length)


def _bounds(batch: TreeBatch, lengths: Iterable[int]) -> dict[str, Tensor]:
    """Bounds of the sequences in a packed batch row (`cu_seq_lens_q` of transformers' attention interface)."""
    if not batch.packed:
        return {}
    return {"cu_seq_lens_q": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=batch.ids.device)}


def _last_layer_at(
    decoder: nn.Module,
    batch: TreeBatch,
    trees: Sequence[PrefixTree],
    prefix_cache: PrefixCache | None,
    columns: list[list[int]],
    read: Sequence[Sequence[int]],
) -> AbstractContextManager[None]:
    device, most = batch.ids.device, max(map(len, columns))
    padded = [[*row_columns, *[0] * (most - len(row_columns))] for row_columns in columns]
    indices = torch.tensor(padded, dtype=torch.int64, device=device)  # (B, most)
    rows = torch.arange(len(columns), device=device)[:, None].expand_as(indices)
    if takes_segments(decoder):
        options = tree_options(decoder, trees, prefix_cache, device, read)
        return last_layer_only_at(decoder, rows, indices, None, segments=options["segments"])
    kind = cast(PretrainedConfig, decoder.config).layer_types[-1]
    allowed = batch.attention(_windows(decoder)[kind], _cached_span(prefix_cache, kind), (rows, indices))
    mask = as_attention_mask(decoder, allowed)
    return last_layer_only_at(decoder, rows, indices, mask, **_bounds(batch, map(len, read)))
