"""The products of adapted linear layers with fewer operations than PEFT's: y = x Wᵀ + s (x Aᵀ) Bᵀ.

PEFT computes five operations for a layer and reads x once for each layer. Here layers with the same input share one
product with their stacked A, each B is added into the base's product in place, and the gradients likewise. Sums are
rounded once where PEFT rounds the LoRA's part, its scaled value and the sum. Parameters, names and files are PEFT's.

Layers for which this is not the same computation (dropout, a bias, DoRA, 8 bits) are called as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorachain.kernels.operators import geglu, geglu_backward


@dataclass(frozen=True, slots=True)
class Adapted:
    """What an adapted layer multiplies by."""

    base: nn.Module
    a: Tensor  # (r, in)
    b: Tensor  # (out, r)
    scaling: float


def plain_lora(module: nn.Module, hidden: Tensor) -> Adapted | None:
    """The factors of a layer with one ordinary LoRA on a frozen weight, all in the type of `hidden`; else None."""
    layer: Any = module
    if not isinstance(module, LoraLayer) or layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant or not isinstance(layer.lora_dropout[name], nn.Identity):
        return None
    base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    in_4_bits = _is_4_bit(base)
    if not (in_4_bits or (isinstance(module, Linear) and type(base) is nn.Linear)):
        return None
    if any(part.bias is not None for part in (base, a, b)) or base.weight.requires_grad:
        return None
    if (not in_4_bits and base.weight.dtype != hidden.dtype) or {a.weight.dtype, b.weight.dtype} != {hidden.dtype}:
        return None
    return Adapted(base, a.weight, b.weight, layer.scaling[name])


def _is_4_bit(base: nn.Module) -> bool:
    return type(base).__name__ == "Linear4bit" and getattr(base.weight, "quant_state", None) is not None


def _dense(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight (out, in) that a base layer multiplies by."""
    weight: Any = base.weight
    if not _is_4_bit(base):
        return cast(Tensor, weight)
    from bitsandbytes.functional import dequantize_4bit

    return cast(Tensor, dequantize_4bit(weight.data, weight.quant_state).to(dtype))


def adapted_products(hidden: Tensor, modules: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """What each of `modules` makes of `hidden` (..., in): (..., out) each.

    With a 4-bit base, each weight is de-quantized here and again for the gradient; it is not kept in between.
    """
    layers = [plain_lora(module, hidden) for module in modules]
    adapted = [layer for layer in layers if layer is not None]
    products: list[Tensor] = []
    if adapted:
        results = _Products.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, -2), [layer.scaling for layer in adapted], *_frozen(adapted), *_factors(adapted)
        )
        products = [result.view(*hidden.shape[:-1], -1) for result in results]
    remaining = iter(products)
    pairs = zip(modules, layers, strict=True)
    return tuple(module(hidden) if layer is None else next(remaining) for module, layer in pairs)


def adapted_geglu(gate: Tensor, up: Tensor, module: nn.Module) -> Tensor:
    """What `module` makes of gelu(gate) · up, (..., I) each; kept for the backward pass are gate and up only."""
    adapted = plain_lora(module, gate)
    if adapted is None:
        return cast(Tensor, module(_Geglu.apply(gate, up)))  # type: ignore[no-untyped-call]
    result = _GegluProduct.apply(  # type: ignore[no-untyped-call]
        gate.flatten(0, -2), up.flatten(0, -2), adapted.scaling, *_frozen([adapted]), *_factors([adapted])
    )
    return cast(Tensor, result.view(*gate.shape[:-1], -1))


def _frozen(layers: Iterable[Adapted]) -> list[Tensor | nn.Module]:
    """Each layer's weight, or the layer itself where the weight has to be de-quantized."""
    return [layer.base if _is_4_bit(layer.base) else cast(Tensor, layer.base.weight) for layer in layers]


def _factors(layers: Iterable[Adapted]) -> list[Tensor]:
    """All A, then all B."""
    layers = list(layers)
    return [layer.a for layer in layers] + [layer.b for layer in layers]


def _weight(frozen: Tensor | nn.Module, dtype: torch.dtype) -> Tensor:
    return frozen if isinstance(frozen, Tensor) else _dense(frozen, dtype)


def _add_low_rank(result: Tensor, low: Tensor, b: Tensor, scaling: float) -> Tensor:
    """result + s · low Bᵀ, in place."""
    return result.addmm_(low, b.T, alpha=scaling)


def _scaled_product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """s · left @ right as one operation."""
    result = left.new_empty(left.shape[0], right.shape[1])
    return result.addmm_(left, right, beta=0, alpha=scaling)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, scalings: Sequence[float], *tensors: Any) -> tuple[Tensor, ...]:
        count = len(scalings)
        frozen, a, b = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        stacked = torch.cat(a) if count > 1 else a[0]  # (R, in)
        ranks = [factor.shape[0] for factor in a]
        low = hidden @ stacked.T  # (N, R)
        results = []
        for weight, part, factor, scaling in zip(frozen, torch.split(low, ranks, 1), b, scalings, strict=True):
            results.append(_add_low_rank(hidden @ _weight(weight, hidden.dtype).T, part, factor, scaling))
        ctx.scalings, ctx.ranks = scalings, ranks
        ctx.quantized = [None if isinstance(weight, Tensor) else weight for weight in frozen]
        ctx.save_for_backward(hidden, low, stacked, *b, *(weight for weight in frozen if isinstance(weight, Tensor)))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Any, ...]:
        hidden, low, stacked, *rest = ctx.saved_tensors
        count = len(ctx.scalings)
        b, frozen = rest[:count], _restored(rest[count:], ctx.quantized)
        low_gradient = torch.empty_like(low)  # (N, R)
        for gradient, factor, part, scaling in zip(
            upstream, b, torch.split(low_gradient, ctx.ranks, 1), ctx.scalings, strict=True
        ):
            part.addmm_(gradient, factor, beta=0, alpha=scaling)
        hidden_gradient = None
        if ctx.needs_input_grad[0]:
            hidden_gradient = low_gradient @ stacked
            for gradient, weight in zip(upstream, frozen, strict=True):
                hidden_gradient.addmm_(gradient, _weight(weight, hidden.dtype))
        a_gradients = torch.split(low_gradient.T @ hidden, ctx.ranks)
        b_gradients = [
            _scaled_product(gradient.T, part, scaling)
            for gradient, part, scaling in zip(upstream, torch.split(low, ctx.ranks, 1), ctx.scalings, strict=True)
        ]
        return hidden_gradient, None, *(None for _ in range(count)), *a_gradients, *b_gradients


def _restored(saved: list[Tensor], quantized: Sequence[nn.Module | None]) -> list[Tensor | nn.Module]:
    """The frozen weights in their order, from those that autograd saved and the layers that are de-quantized."""
    tensors = iter(saved)
    return [next(tensors) if layer is None else layer for layer in quantized]


class _Geglu(torch.autograd.Function):
    """gelu(gate) · up for a layer that keeps its input itself."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return geglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate_gradient, up_gradient, _ = geglu_backward(upstream, *ctx.saved_tensors)
        return gate_gradient, up_gradient


class _GegluProduct(torch.autograd.Function):
    """The down projection of gelu(gate) · up. The backward pass recomputes that product for the gradient of A."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, scaling: float, weight: Any, a: Tensor, b: Tensor) -> Tensor:
        product = geglu(gate, up)  # (N, I)
        low = product @ a.T  # (N, r)
        ctx.scaling, ctx.quantized = scaling, [None if isinstance(weight, Tensor) else weight]
        ctx.save_for_backward(gate, up, low, a, b, *([weight] if isinstance(weight, Tensor) else []))
        return _add_low_rank(product @ _weight(weight, gate.dtype).T, low, b, scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        gate, up, low, a, b, *saved = ctx.saved_tensors
        (weight,) = _restored(saved, ctx.quantized)
        low_gradient = _scaled_product(upstream, b, ctx.scaling)  # (N, r)
        product_gradient = (low_gradient @ a).addmm_(upstream, _weight(weight, gate.dtype))  # (N, I)
        gate_gradient, up_gradient, product = geglu_backward(product_gradient, gate, up)
        return (
            gate_gradient,
            up_gradient,
            None,
            None,
            low_gradient.T @ product,
            _scaled_product(upstream.T, low, ctx.scaling),
        )
