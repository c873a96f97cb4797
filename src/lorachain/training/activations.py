"""Whether a micro-batch's activations fit beside the weights, or have to be computed twice."""

from typing import Any

import psutil
import torch
from torch import nn

from lorachain.weights.load import plain_model, text_decoder

_MARGIN = 0.85
"""Of what is free: the loss, the allocator and the attention's own buffers need the rest."""


def activation_bytes(model: nn.Module, tokens: int) -> int:
    """How much the backward pass of `tokens` tokens needs to have kept, with a LoRA on all linear layers.

    Per token and layer: the inputs of the four norms and of the projections after two of them (6 H); queries and keys
    before their norms, and what attention keeps and gives (3 heads' widths of queries and of keys); gate and up (2 I).
    """
    config: Any = text_decoder(model).config
    heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    kept = 6 * config.hidden_size + 3 * heads + 2 * config.intermediate_size
    return int(tokens * config.num_hidden_layers * kept * plain_model(model).dtype.itemsize)


def needs_checkpointing(model: nn.Module, tokens: int) -> bool:
    """Whether layers have to be computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174).

    The weights are on their device already, so what is free there is what activations may take. The gradients are the
    same either way; only time and memory differ.
    """
    device = plain_model(model).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return activation_bytes(model, tokens) > _MARGIN * free
