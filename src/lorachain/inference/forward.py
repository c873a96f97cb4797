"""The decoder's forward pass over prefix trees: hidden states at the tokens that are read."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.batching import packs
from lorachain.inference.masks import as_attention_mask, causal_masks
from lorachain.inference.prefix_cache import KeyValues, PrefixCache
from lorachain.inference.prefix_tree import PrefixTree, TreeBatch
from lorachain.weights.last_layer import last_layer_only_at
from lorachain.weights.load import text_decoder


def hidden_states(
    model: nn.Module,
    trees: Sequence[PrefixTree],
    read: Sequence[Sequence[int]],
    store: KeyValues | None = None,
) -> Tensor:
    """Final hidden states (N, H) at the indices `read[i]` of each tree i, in that order.

    Where `packs` allows it, all trees share one batch row without padding; otherwise each has its own. Where `store`
    holds a prefix cache, every tree continues from it. Run within `eval_mode`.
    """
    decoder = text_decoder(model)
    prefix_cache = store.prefix_cache if store is not None else None
    first_position = prefix_cache.length if prefix_cache is not None else 0
    device = next(decoder.parameters()).device
    batch = TreeBatch.of(trees, first_position, device, packed=packs(decoder, prefix_cache))
    if store is not None:
        store.begins = batch.begins
    columns: list[list[int]] = [[] for _ in batch.ids]  # of each batch row, the indices that are read
    for (row, begin), places in zip(batch.begins, read, strict=True):
        columns[row] += [begin + place for place in places]
    most = max(map(len, columns))
    # The last layer costs most outside its keys and values: where few tokens are read, they are all that it computes.
    narrow = 2 * most <= batch.ids.shape[1]
    with _last_layer_at(decoder, batch, prefix_cache, columns, read) if narrow else nullcontext():
        hidden: Tensor = decoder(  # (B, T, H), or (B, most, H)
            input_ids=batch.ids,
            attention_mask=_masks(decoder, batch, trees, prefix_cache),
            position_ids=batch.positions,
            past_key_values=store,
            use_cache=False,
            **_bounds(batch, map(len, trees)),
        ).last_hidden_state
    found = [(row, place) for row, own in enumerate(columns) for place in (range(len(own)) if narrow else own)]
    return hidden[tuple(torch.tensor(found, dtype=torch.int64, device=device).view(-1, 2).T)]


def _windows(decoder: nn.Module) -> dict[str, int | None]:
    """The attention window of each kind of layer."""
    return {"full_attention": None, "sliding_attention": cast(PretrainedConfig, decoder.config).sliding_window}


def _masks(
    decoder: nn.Module, batch: TreeBatch, trees: Sequence[PrefixTree], prefix_cache: PrefixCache | None
) -> Mapping[str, Tensor | None]:
    """By kind of layer; None where attention needs no mask."""
    plain = prefix_cache is None and not any(tree.continuations for tree in trees)
    if plain and not batch.packed:
        return causal_masks(decoder, batch.ids.shape[1], batch.ids.device)
    longest = max(map(len, trees))
    masks: dict[str, Tensor | None] = {}
    for kind, window in _windows(decoder).items():
        needless = plain and (window is None or longest <= window)
        masks[kind] = (
            None if needless else as_attention_mask(decoder, batch.attention(window, _span(prefix_cache, kind)))
        )
    return masks


def _span(prefix_cache: PrefixCache | None, kind: str) -> tuple[int, int] | None:
    return None if prefix_cache is None else (prefix_cache.first[kind], prefix_cache.length)


def _bounds(batch: TreeBatch, lengths: Iterable[int]) -> dict[str, Tensor]:
    """Sequence bounds within a packed batch row (`cu_seq_lens_q` of transformers' attention interface)."""
    if not batch.packed:
        return {}
    return {"cu_seq_lens_q": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=batch.ids.device)}


def _last_layer_at(
    decoder: nn.Module,
    batch: TreeBatch,
    prefix_cache: PrefixCache | None,
    columns: list[list[int]],
    read: Sequence[Sequence[int]],
) -> AbstractContextManager[None]:
    device, most = batch.ids.device, max(map(len, columns))
    places = torch.tensor([[*own, *[0] * (most - len(own))] for own in columns], dtype=torch.int64, device=device)
    row = torch.arange(len(columns), device=device)[:, None].expand_as(places)
    kind = cast(PretrainedConfig, decoder.config).layer_types[-1]
    seen = batch.attention(_windows(decoder)[kind], _span(prefix_cache, kind), (row, places))
    return last_layer_only_at(decoder, row, places, as_attention_mask(decoder, seen), **_bounds(batch, map(len, read)))
