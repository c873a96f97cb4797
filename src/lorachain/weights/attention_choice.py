"""Which attention a model computes with: by its device and type."""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from lorachain.weights.attention import BLOCKWISE, use_blockwise_attention
from lorachain.weights.packed_attention import FLEX, VARLEN, gpu_attention


def use_fast_attention(model: PreTrainedModel) -> None:
    """Switches the model to blocks of products on a CPU, and to the attention of packed rows on a CUDA device.

    On other devices it keeps its own.
    """
    use_blockwise_attention(model)
    name = gpu_attention(model.device, model.dtype)
    if name is not None:
        model.set_attn_implementation(name)


def takes_packed_rows(decoder: nn.Module) -> bool:
    """Whether its attention separates the sequences of a packed row, given their bounds."""
    return _implementation(decoder) == BLOCKWISE or takes_segments(decoder)


def takes_segments(decoder: nn.Module) -> bool:
    """Whether its attention takes Segments instead of masks."""
    return _implementation(decoder) in (VARLEN, FLEX)


def _implementation(decoder: nn.Module) -> str:
    return cast(str, cast(Any, decoder).config._attn_implementation)
