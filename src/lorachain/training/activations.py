"""Whether a micro-batch's activations fit in memory next to the weights, or are recomputed in the backward pass."""

from typing import Any, cast

from torch import nn

from lorachain.memory import free_memory, release
from lorachain.weights.attention_choice import takes_packed_rows
from lorachain.weights.load import plain_model, text_decoder

_USABLE_SHARE = 0.85
"""Of the free memory; the loss, the allocator and the attention's buffers need the rest."""


_ADAPTED_LINEARS, _RANK = 7, 16
"""The default LoRA, for what it keeps between its factors: a few thousandths of a layer."""


def activation_bytes(model: nn.Module, tokens: int, *, dense_masks: bool = False) -> int:
    """Bytes that the backward pass of `tokens` tokens keeps, with a LoRA on all linear layers.

    Args:
        dense_masks: whether the layers' attention is PyTorch's with a mask, in one row of `tokens` tokens: each layer
            then keeps the mask as numbers and every key head once per query head that shares it.
    """
    config = _text_config(model)
    kept = config.num_hidden_layers * layer_bytes(model, tokens) + _shared_bytes(model, tokens)
    if dense_masks:
        repeated = 2 * (config.num_attention_heads - config.num_key_value_heads) * config.head_dim
        kept += config.num_hidden_layers * tokens * (tokens + repeated) * _itemsize(model)
    return int(kept)


def layer_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes that the backward pass of one layer keeps.

    Per token: the inputs of the four norms and of the projections after two of them (6 H); queries and keys before
    their norms, and what attention keeps and returns (3 times the width of all queries and keys); gate and up (2 I);
    what each LoRA keeps between its factors; and in float32 a scale of each norm and a normalizer of each query.
    """
    config = _text_config(model)
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    kept = 6 * config.hidden_size + 3 * (heads + key_heads) * config.head_dim + 2 * config.intermediate_size
    kept += _ADAPTED_LINEARS * _RANK
    return int(tokens * (kept * _itemsize(model) + (4 + 2 * heads + key_heads) * 4))


def recomputed_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes that are kept where the backward pass recomputes the layers: each one's input instead of what it keeps."""
    config = _text_config(model)
    inputs = tokens * config.num_hidden_layers * config.hidden_size * _itemsize(model)
    return int(inputs + _shared_bytes(model, tokens))


def _shared_bytes(model: nn.Module, tokens: int) -> int:
    """Besides the layers: the last one's output, and the cosines and sines of the positions for both types of layer."""
    config = _text_config(model)
    return int(tokens * (config.hidden_size + 4 * config.head_dim) * _itemsize(model))


def _text_config(model: nn.Module) -> Any:
    return cast(Any, text_decoder(model)).config


def _itemsize(model: nn.Module) -> int:
    return plain_model(model).dtype.itemsize


def needs_recomputation(model: nn.Module, tokens: int) -> bool:
    """Whether the backward pass has to recompute the layers (Chen et al. 2016, arXiv 1604.06174).

    The weights are on their device already, so activations may take what is free there. Recomputation costs time and
    changes no gradient.
    """
    release()
    device = plain_model(model).device
    dense_masks = device.type != "cpu" and not takes_packed_rows(text_decoder(model))
    return activation_bytes(model, tokens, dense_masks=dense_masks) > _USABLE_SHARE * free_memory(device)


def recompute_activations(model: nn.Module) -> None:
    """Recomputes each decoder layer in the backward pass instead of keeping its activations."""
    inner = cast(Any, plain_model(model))
    # transformers 5.17 has the old name only; later versions warn about it.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    inner.enable_input_require_grads()
