"""Whether a micro-batch's activations fit beside the weights, or have to be computed twice."""

from typing import Any

import psutil
import torch
from torch import nn

from lorachain.weights.load import plain_model, text_decoder

_BYTES_PER_UNIT = 14
"""Bytes that autograd keeps per token, layer and unit of (hidden + intermediate) width in bf16. Counted on the three
shapes (docs/memory.md): 15.6 for 270M, 12.3 for 4B, 11.0 for 27B."""
_MARGIN = 0.85
"""Of what is free: the loss, the allocator and the attention's own buffers need the rest."""


def activation_bytes(model: nn.Module, tokens: int) -> int:
    """About how much the backward pass of `tokens` tokens needs to have kept."""
    config: Any = text_decoder(model).config
    units = config.num_hidden_layers * (config.hidden_size + config.intermediate_size)
    return int(tokens * units * _BYTES_PER_UNIT * plain_model(model).dtype.itemsize / 2)


def needs_checkpointing(model: nn.Module, tokens: int) -> bool:
    """Whether layers have to be computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174).

    The weights are on their device already, so what is free there is what activations may take. The gradients are the
    same either way; only time and memory differ.
    """
    device = plain_model(model).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return activation_bytes(model, tokens) > _MARGIN * free
