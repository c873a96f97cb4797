"""Attention masks in the form that a decoder's attention takes."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig


def as_attention_mask(decoder: nn.Module, seen: Tensor) -> Tensor:
    """A mask (B, 1, query, key) that is True for "seen", in the decoder's form."""
    if _takes_booleans(decoder):
        return seen
    # Eager attention adds its mask to the scores.
    dtype = next(decoder.parameters()).dtype
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def causal_masks(decoder: nn.Module, length: int, device: torch.device) -> dict[str, Tensor | None]:
    """Masks (1, 1, T, T) by kind of layer for lines without branches; None where the attention is causal by itself."""
    window = cast(PretrainedConfig, decoder.config).sliding_window
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    full = distance >= 0
    masks: dict[str, Tensor | None] = {"full_attention": None, "sliding_attention": None}
    if not _takes_booleans(decoder):
        masks["full_attention"] = as_attention_mask(decoder, full[None, None])
    if length > window or not _takes_booleans(decoder):
        masks["sliding_attention"] = as_attention_mask(decoder, (full & (distance < window))[None, None])
    return masks


def _takes_booleans(decoder: nn.Module) -> bool:
    return bool(cast(PretrainedConfig, decoder.config)._attn_implementation != "eager")
