"""Trees of ids through the decoder: hidden states where they are read."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.exam.batching import packs
from lorachain.exam.masks import as_attention_mask, causal_masks
from lorachain.exam.prefix import KeyValues, SharedPrefix
from lorachain.exam.tree import TokenLines, Tree
from lorachain.weights.last_layer import last_layer_only_at
from lorachain.weights.load import text_decoder


def tree_hidden(
    model: nn.Module,
    trees: Sequence[Tree],
    read: Sequence[Sequence[int]],
    store: KeyValues | None = None,
) -> Tensor:
    """Final hidden states (N, H) at the places `read[i]` of each tree i, in that order.

    Where `packs` says so, all trees stand in one line, without padding; elsewhere each has its own. Where `store` holds
    a prefix, every stem goes on from it. Run it within `evaluating`.
    """
    decoder = text_decoder(model)
    prefix = store.prefix if store is not None else None
    first_position = prefix.length if prefix is not None else 0
    device = next(decoder.parameters()).device
    lines = TokenLines.of(trees, first_position, device, packed=packs(decoder, prefix))
    if store is not None:
        store.begins = lines.begins
    columns: list[list[int]] = [[] for _ in lines.ids]  # of each line, the places that are read
    for (line, begin), places in zip(lines.begins, read, strict=True):
        columns[line] += [begin + place for place in places]
    most = max(map(len, columns))
    # The last layer costs most outside its keys and values: where few tokens are read, they are all that it computes.
    narrow = 2 * most <= lines.ids.shape[1]
    with _last_layer_at(decoder, lines, prefix, columns, read) if narrow else nullcontext():
        hidden: Tensor = decoder(  # (B, T, H), or (B, most, H)
            input_ids=lines.ids,
            attention_mask=_masks(decoder, lines, trees, prefix),
            position_ids=lines.positions,
            past_key_values=store,
            use_cache=False,
            **_bounds(lines, map(len, trees)),
        ).last_hidden_state
    found = [(line, place) for line, own in enumerate(columns) for place in (range(len(own)) if narrow else own)]
    return hidden[tuple(torch.tensor(found, dtype=torch.int64, device=device).view(-1, 2).T)]


def _windows(decoder: nn.Module) -> dict[str, int | None]:
    """How far back each kind of layer sees."""
    return {"full_attention": None, "sliding_attention": cast(PretrainedConfig, decoder.config).sliding_window}


def _masks(
    decoder: nn.Module, lines: TokenLines, trees: Sequence[Tree], prefix: SharedPrefix | None
) -> Mapping[str, Tensor | None]:
    """By kind of layer; None where attention is right by itself."""
    plain = prefix is None and not any(tree.branches for tree in trees)
    if plain and not lines.packed:
        return causal_masks(decoder, lines.ids.shape[1], lines.ids.device)
    longest = max(map(len, trees))
    masks: dict[str, Tensor | None] = {}
    for kind, window in _windows(decoder).items():
        needless = plain and (window is None or longest <= window)
        masks[kind] = None if needless else as_attention_mask(decoder, lines.sees(window, _span(prefix, kind)))
    return masks


def _span(prefix: SharedPrefix | None, kind: str) -> tuple[int, int] | None:
    return None if prefix is None else (prefix.first[kind], prefix.length)


def _bounds(lines: TokenLines, lengths: Iterable[int]) -> dict[str, Tensor]:
    """Where one sequence ends and the next begins, for an attention that takes packed lines."""
    if not lines.packed:
        return {}
    return {"cu_seq_lens_q": torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=lines.ids.device)}


def _last_layer_at(
    decoder: nn.Module,
    lines: TokenLines,
    prefix: SharedPrefix | None,
    columns: list[list[int]],
    read: Sequence[Sequence[int]],
) -> AbstractContextManager[None]:
    device, most = lines.ids.device, max(map(len, columns))
    places = torch.tensor([[*own, *[0] * (most - len(own))] for own in columns], dtype=torch.int64, device=device)
    row = torch.arange(len(columns), device=device)[:, None].expand_as(places)
    kind = cast(PretrainedConfig, decoder.config).layer_types[-1]
    seen = lines.sees(_windows(decoder)[kind], _span(prefix, kind), (row, places))
    return last_layer_only_at(decoder, row, places, as_attention_mask(decoder, seen), **_bounds(lines, map(len, read)))
