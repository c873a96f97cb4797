"""Attention masks in the form that a decoder's attention implementation takes."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.weights.attention_choice import takes_segments


def as_attention_mask(decoder: nn.Module, allowed: Tensor) -> Tensor:
    """The mask `allowed` (B, 1, Q, K), True where a query attends to a key, in the decoder's form."""
    if _takes_booleans(decoder):
        return allowed
    # Eager attention adds its mask to the scores.
    dtype = next(decoder.parameters()).dtype
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def causal_masks(decoder: nn.Module, length: int, device: torch.device) -> dict[str, Tensor | None]:
    """Causal masks (1, 1, T, T) by layer type, for one sequence per batch row.

    None where the attention needs none because it is causal itself.
    """
    window = cast(PretrainedConfig, decoder.config).sliding_window
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    causal = distance >= 0
    masks: dict[str, Tensor | None] = {"full_attention": None, "sliding_attention": None}
    if takes_segments(decoder):
        return masks
    if not _takes_booleans(decoder):
        masks["full_attention"] = as_attention_mask(decoder, causal[None, None])
    if length > window or not _takes_booleans(decoder):
        masks["sliding_attention"] = as_attention_mask(decoder, (causal & (distance < window))[None, None])
    return masks


def _takes_booleans(decoder: nn.Module) -> bool:
    return bool(cast(PretrainedConfig, decoder.config)._attn_implementation != "eager")
