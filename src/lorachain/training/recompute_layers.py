"""Gemma's norms and gated MLPs, keeping less for the backward pass than autograd does.

Per token and layer, autograd keeps the input of each norm in float32, and of the MLP the gate, its activation, the
other half and their product. The activation and the product follow from the other two, and a norm's input is in memory
in bf16 anyway: recomputing them costs a few elementwise operations. Nothing is kept in a smaller type than it was
computed in, and the forward pass has the same bits as that of transformers.
"""

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP, Gemma3RMSNorm


def use_recompute_layers(model: nn.Module) -> None:
    """Switches the language model's norms and MLPs to those of this module; without gradients nothing changes."""
    for module in model.modules():
        patched: Any = module
        if isinstance(module, Gemma3RMSNorm):
            patched.forward = MethodType(_norm_forward, module)
        elif isinstance(module, Gemma3MLP) and module.config.hidden_activation == "gelu_pytorch_tanh":
            patched.forward = MethodType(_mlp_forward, module)


def _norm_forward(norm: Gemma3RMSNorm, hidden: Tensor) -> Tensor:
    if norm.weight.requires_grad or not torch.is_grad_enabled():
        return cast(Tensor, Gemma3RMSNorm.forward(norm, hidden))  # type: ignore[no-untyped-call]
    return rms_norm(hidden, norm.weight, norm.eps)


def _mlp_forward(mlp: Gemma3MLP, hidden: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return cast(Tensor, Gemma3MLP.forward(mlp, hidden))  # type: ignore[no-untyped-call]
    return gated_down(mlp.gate_proj(hidden), mlp.up_proj(hidden), mlp.down_proj)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · (1 + weight) over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

    Computed in float32, returned in the type of `hidden`. Gemma stores its weights minus one.
    """
    return cast(Tensor, _RmsNorm.apply(hidden, weight, eps))  # type: ignore[no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        gain = 1.0 + weight.float()
        ctx.save_for_backward(hidden, scale, gain)
        return (wide * scale).mul_(gain).type_as(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        hidden, scale, gain = ctx.saved_tensors
        normed = hidden.float() * scale
        gradient = upstream.float() * gain
        mean = (gradient * normed).mean(-1, keepdim=True)
        return gradient.sub_(normed.mul_(mean)).mul_(scale).type_as(hidden), None, None


def gated_down(gate: Tensor, up: Tensor, down_proj: nn.Module) -> Tensor:
    """`down_proj(gelu(gate) * up)`, keeping only `gate` and `up`, each (B, T, I), for the backward pass.

    Where `down_proj` saves its input (its LoRA does), the backward pass recomputes that input from `gate` and `up`.
    """
    product = cast(Tensor, _GatedProduct.apply(gate, up))  # type: ignore[no-untyped-call]
    node: Any = product.grad_fn
    if node is None:  # nothing below is trained: gate and up are not kept, so the product has to be
        return cast(Tensor, down_proj(product))
    address, size = product.data_ptr(), product.numel()

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        is_product = tensor.data_ptr() == address and tensor.numel() == size and tensor.is_contiguous()
        return tensor.shape if is_product else tensor

    def unpack(stored: Tensor | torch.Size) -> Tensor:
        return stored if isinstance(stored, Tensor) else _gated_product(*_saved_gate_and_up(node)).view(stored)

    with saved_tensors_hooks(pack, unpack):
        return cast(Tensor, down_proj(product))


def _saved_gate_and_up(node: Any) -> tuple[Tensor, Tensor]:
    """Gate and up. Needed twice in a backward pass and unpacked once: of a recomputed layer, PyTorch allows no second
    unpacking."""
    if not hasattr(node, "unpacked"):
        node.unpacked = node.saved_tensors
    return cast(tuple[Tensor, Tensor], node.unpacked)


def _gated_product(gate: Tensor, up: Tensor) -> Tensor:
    return nn.functional.gelu(gate, approximate="tanh").mul_(up)


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated_product(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = _saved_gate_and_up(ctx)
        del ctx.unpacked
        up_gradient = nn.functional.gelu(gate, approximate="tanh").mul_(upstream)
        return torch.ops.aten.gelu_backward(upstream * up, gate, approximate="tanh"), up_gradient
