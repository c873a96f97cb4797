"""The operators `torch.ops.lorachain.*`: one launch each on CUDA, and one node each for `torch.compile`.

Gradients are those of the autograd functions that call them (`training/fused_layers.py`, `weights/lora_products.py`).
liger-kernel has kernels for the same layers. They are not used because its gradient of GEGLU overwrites the gate and
the other half, which the gradient of a LoRA on the down projection needs, and its launches are not operators, so that
neither `torch.compile` nor FakeTensorMode could go through them (docs/decisions/0013-fused-layers-on-cuda.md).
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lorachain.kernels import plain

_LIBRARY: Any = torch.library.Library("lorachain", "DEF")  # type: ignore[no-untyped-call]


def kernels_problem(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on a CUDA device, found by running one; None where they can."""
    if find_spec("triton") is None:
        return "triton is not installed (`pip install 'lorachain[gpu]'`)"
    try:
        geglu(torch.zeros(1, device=device), torch.zeros(1, device=device))
    except Exception as error:  # Triton needs a driver and a C compiler, and raises whatever they do
        return f"triton fails with {type(error).__name__}: {str(error).strip()[:200]}"
    return None


def rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x²) + eps) · (1 + weight) over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467), plus
    `residual`, and 1 / sqrt(…) in float32.

    Args:
        x, residual: (..., H).
        weight: (H,), stored minus one, as Gemma does.

    Returns:
        (..., H) in the type of `x`, and (...).
    """
    result: tuple[Tensor, Tensor] = torch.ops.lorachain.rms_norm(x, weight, residual, eps)
    return result


def rms_norm_backward(upstream: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `rms_norm` with respect to `x`, (..., H), given both results' counterparts."""
    result: Tensor = torch.ops.lorachain.rms_norm_backward(upstream, x, scale, weight)
    return result


def norm_rotate(heads: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` of each head, then rotary positions (Su et al. 2021, arXiv 2104.09864).

    Args:
        heads: (B, T, heads, d).
        weight: (d,).
        cos, sin: (B, T, d), both halves equal.

    Returns:
        (B, T, heads, d), and (B, T, heads) in float32.
    """
    result: tuple[Tensor, Tensor] = torch.ops.lorachain.norm_rotate(heads, weight, cos, sin, eps)
    return result


def norm_rotate_backward(
    upstream: Tensor, heads: Tensor, scale: Tensor, weight: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """The gradient of `norm_rotate` with respect to `heads`, (B, T, heads, d)."""
    result: Tensor = torch.ops.lorachain.norm_rotate_backward(upstream, heads, scale, weight, cos, sin)
    return result


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) · up with the tanh approximation of GELU, (..., I) each (Shazeer 2020, arXiv 2002.05202)."""
    result: Tensor = torch.ops.lorachain.geglu(gate, up)
    return result


def geglu_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `geglu` with respect to gate and up, and its result again, (..., I) each."""
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.lorachain.geglu_backward(upstream, gate, up)
    return result


def online_softmax_(logits: Tensor, highest: Tensor, normalizer: Tensor) -> Tensor:
    """One block of an online softmax (Milakov & Gimelshein 2018, arXiv 1805.02867), in place.

    Args:
        logits: (C, B), replaced by exp(logits - highest) with the new highest.
        highest: (C,) float32, of the blocks before (-inf before the first), updated.
        normalizer: (C,) float32, the sum of exp(logit - highest) so far, updated.

    Returns:
        (C,) float32: the factor by which sums of earlier blocks are to be multiplied.
    """
    result: Tensor = torch.ops.lorachain.online_softmax_(logits, highest, normalizer)
    return result


def _norms() -> Any:
    from lorachain.kernels import triton_norms  # not before it is needed: Triton is an extra

    return triton_norms


def _elementwise() -> Any:
    from lorachain.kernels import triton_elementwise

    return triton_elementwise


def _on_cuda(module: Callable[[], Any], name: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        prepared = [a.contiguous() if isinstance(a, Tensor) else a for a in arguments]
        with torch.cuda.device(prepared[0].device):
            return getattr(module(), name)(*prepared)

    return call


def _result_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _scales_of(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _register(signature: str, module: Callable[[], Any], shapes: Callable[..., Any]) -> None:
    name = signature.partition("(")[0]
    _LIBRARY.define(signature)
    _LIBRARY.impl(name, getattr(plain, name), "CPU")
    _LIBRARY.impl(name, _on_cuda(module, name), "CUDA")
    torch.library.register_fake(f"lorachain::{name}", shapes, lib=_LIBRARY)


_register(
    "rms_norm(Tensor x, Tensor weight, Tensor? residual, float eps) -> (Tensor, Tensor)",
    _norms,
    lambda x, weight, residual, eps: (_result_like(x), _scales_of(x)),
)
_register(
    "rms_norm_backward(Tensor upstream, Tensor x, Tensor scale, Tensor weight) -> Tensor",
    _norms,
    lambda upstream, x, scale, weight: _result_like(x),
)
_register(
    "norm_rotate(Tensor heads, Tensor weight, Tensor cos, Tensor sin, float eps) -> (Tensor, Tensor)",
    _norms,
    lambda heads, weight, cos, sin, eps: (_result_like(heads), _scales_of(heads)),
)
_register(
    "norm_rotate_backward(Tensor upstream, Tensor heads, Tensor scale, Tensor weight, Tensor cos, Tensor sin) "
    "-> Tensor",
    _norms,
    lambda upstream, heads, scale, weight, cos, sin: _result_like(heads),
)
_register("geglu(Tensor gate, Tensor up) -> Tensor", _elementwise, lambda gate, up: _result_like(gate))
_register(
    "geglu_backward(Tensor upstream, Tensor gate, Tensor up) -> (Tensor, Tensor, Tensor)",
    _elementwise,
    lambda upstream, gate, up: tuple(_result_like(gate) for _ in range(3)),
)
_register(
    "online_softmax_(Tensor(a!) logits, Tensor(b!) highest, Tensor(c!) normalizer) -> Tensor",
    _elementwise,
    lambda logits, highest, normalizer: torch.empty_like(highest),
)
