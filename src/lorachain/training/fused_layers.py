"""Gemma's decoder layers with fewer and fused operations, for CUDA.

The same parameters and the same formulas as transformers' layers. Norms, rotary positions and gated MLPs are one
operator each (`kernels/`), a residual is added by the norm before it, and the products of LoRA layers are those of
`weights/lora_products.py`. Kept for the backward pass is what `recompute_layers.py` keeps. Results differ from those
of transformers by rounding: intermediate values stay in float32.

No operation needs to know an address or the graph, so `torch.compile` takes a layer as one graph.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3Attention,
    Gemma3DecoderLayer,
    Gemma3MLP,
    Gemma3RMSNorm,
    eager_attention_forward,
)

from lorachain.kernels import operators
from lorachain.weights.lora_products import adapted_geglu, adapted_products

_CHECKPOINTS_IN_FORWARD = "__call__" not in vars(GradientCheckpointingLayer)
"""Whether transformers recomputes a layer within its class's `forward`, which is replaced here, not around it."""


def use_fused_layers(decoder: nn.Module) -> None:
    """Switches a text decoder's layers and last norm to those of this module; without gradients nothing changes.

    Args:
        decoder: with frozen norms and GELU in its tanh approximation, as every Gemma 3 with a LoRA.
    """
    model: Any = decoder
    for layer in model.layers:
        layer.forward = partial(_layer_forward, layer, fused_layer)
    model.norm.forward = MethodType(_last_norm_forward, model.norm)


def compile_fused_layers(decoder: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles the layers that `use_fused_layers` has set, each as one graph; layers of one kind share their code.

    Sizes are variables from the first call on, so that which code a micro-batch gets does not depend on the ones
    before it: a resumed run computes what the uninterrupted one does.
    """
    torch.fx.experimental._config.use_duck_shape = False  # sizes that happen to be equal are not taken to be the same
    compiled = torch.compile(fused_layer, backend=backend, fullgraph=True, dynamic=True)
    for layer in cast(Any, decoder).layers:
        layer.forward = partial(_layer_forward, layer, compiled)


def can_be_fused(decoder: nn.Module) -> bool:
    """Whether `use_fused_layers` computes what these layers do."""
    model: Any = decoder
    norms = [module for module in decoder.modules() if isinstance(module, Gemma3RMSNorm)]
    return (
        model.config.hidden_activation == "gelu_pytorch_tanh"
        and all(type(layer) is Gemma3DecoderLayer for layer in model.layers)
        and not any(norm.weight.requires_grad for norm in norms)
    )


def _layer_forward(
    layer: Any,
    fused: Callable[..., Tensor],
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    **options: Any,
) -> Tensor:
    if not torch.is_grad_enabled() or past_key_values is not None:
        result = cast(Any, Gemma3DecoderLayer).forward(
            layer, hidden_states, position_embeddings, attention_mask, position_ids, past_key_values, **options
        )
        return cast(Tensor, result)
    rest = (position_embeddings, attention_mask, position_ids)
    if layer.gradient_checkpointing and layer.training and _CHECKPOINTS_IN_FORWARD:
        result = layer._gradient_checkpointing_func(partial(fused, layer, **options), hidden_states, *rest)
        return cast(Tensor, result)
    return fused(layer, hidden_states, *rest, **options)


def fused_layer(
    layer: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: Tensor | None,
    position_ids: Tensor | None,
    **options: Any,
) -> Tensor:
    """As `Gemma3DecoderLayer.forward` without a cache, (B, T, H) to (B, T, H)."""
    normed = rms_norm(hidden_states, layer.input_layernorm)
    attended = _attention(layer.self_attn, normed, position_embeddings, mask, position_ids, options)
    hidden = rms_norm(attended, layer.post_attention_layernorm, residual=hidden_states)
    output = _gated_mlp(layer.mlp, rms_norm(hidden, layer.pre_feedforward_layernorm))
    return rms_norm(output, layer.post_feedforward_layernorm, residual=hidden)


def _attention(
    attention: Gemma3Attention,
    hidden: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: Tensor | None,
    position_ids: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """As `Gemma3Attention.forward`, (B, T, H) to (B, T, H)."""
    module: Any = attention
    projections = [module.q_proj, module.k_proj, module.v_proj]
    query, key, value = (
        states.view(*hidden.shape[:-1], -1, module.head_dim) for states in adapted_products(hidden, projections)
    )  # (B, T, heads, d)
    cos, sin = (part.expand(hidden.shape[0], -1, -1) for part in position_embeddings)  # (B, T, d)
    query, key = norm_rotate(query, module.q_norm, cos, sin), norm_rotate(key, module.k_norm, cos, sin)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    attended, _ = attend(
        module,
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        mask,
        dropout=module.attention_dropout if module.training else 0.0,
        scaling=module.scaling,
        sliding_window=module.sliding_window,
        position_ids=position_ids,
        **options,
    )
    (result,) = adapted_products(attended.reshape(*hidden.shape[:-1], -1), [module.o_proj])
    return result


def _gated_mlp(mlp: Gemma3MLP, hidden: Tensor) -> Tensor:
    gate, up = adapted_products(hidden, [mlp.gate_proj, mlp.up_proj])
    return adapted_geglu(gate, up, mlp.down_proj)


def _last_norm_forward(norm: Gemma3RMSNorm, hidden: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return cast(Tensor, Gemma3RMSNorm.forward(norm, hidden))  # type: ignore[no-untyped-call]
    return rms_norm(hidden, norm)


def rms_norm(hidden: Tensor, norm: Any, residual: Tensor | None = None) -> Tensor:
    """The norm of (..., H), and `residual` added."""
    return cast(Tensor, _RmsNorm.apply(hidden, norm.weight, residual, norm.eps))  # type: ignore[no-untyped-call]


def norm_rotate(heads: Tensor, norm: Any, cos: Tensor, sin: Tensor) -> Tensor:
    """The norm of each head of (B, T, heads, d), with rotary positions."""
    return cast(Tensor, _NormRotate.apply(heads, norm.weight, cos, sin, norm.eps))  # type: ignore[no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> Tensor:
        result, scale = operators.rms_norm(hidden, weight, residual, eps)
        ctx.save_for_backward(hidden, scale, weight)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        hidden, scale, weight = ctx.saved_tensors
        gradient = operators.rms_norm_backward(upstream, hidden, scale, weight) if ctx.needs_input_grad[0] else None
        return gradient, None, upstream if ctx.needs_input_grad[2] else None, None


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
        result, scale = operators.norm_rotate(heads, weight, cos, sin, eps)
        ctx.save_for_backward(heads, scale, weight, cos, sin)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        return operators.norm_rotate_backward(upstream, *ctx.saved_tensors), None, None, None, None
