"""Whether a micro-batch's activations fit in memory next to the weights, or are recomputed in the backward pass."""

from typing import Any, cast

from torch import nn

from lorachain.memory import free_memory, release
from lorachain.weights.load import plain_model, text_decoder

_USABLE_SHARE = 0.85
"""Of the free memory; the loss, the allocator and the attention's buffers need the rest."""


def activation_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes that the backward pass of `tokens` tokens keeps, with a LoRA on all linear layers.

    Per token and layer: the inputs of the four norms and of the projections after two of them (6 H); queries and keys
    before their norms, and what attention keeps and returns (3 times the width of all queries and keys); gate and up
    (2 I).
    """
    config: Any = text_decoder(model).config
    heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    kept = 6 * config.hidden_size + 3 * heads + 2 * config.intermediate_size
    return int(tokens * config.num_hidden_layers * kept * plain_model(model).dtype.itemsize)


def needs_recomputation(model: nn.Module, tokens: int) -> bool:
    """Whether the backward pass has to recompute the layers (Chen et al. 2016, arXiv 1604.06174).

    The weights are on their device already, so activations may take what is free there. Recomputation costs time and
    changes no gradient.
    """
    release()
    return activation_bytes(model, tokens) > _USABLE_SHARE * free_memory(plain_model(model).device)


def recompute_activations(model: nn.Module) -> None:
    """Recomputes each decoder layer in the backward pass instead of keeping its activations."""
    inner = cast(Any, plain_model(model))
    # transformers 5.17 has the old name only; later versions warn about it.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    inner.enable_input_require_grads()
