"""What each operator computes, in plain PyTorch: how it runs on a CPU, and what its Triton kernel is compared with.

Everything is computed in float32 (float64 for float64 inputs) and rounded once, to the type of the result.
"""

import math

import torch
from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """See `operators.rms_norm`."""
    wide = _wide(x)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    normed = wide * scale * (1.0 + _wide(weight))
    if residual is not None:
        normed = normed + _wide(residual)
    return normed.to(x.dtype), scale.squeeze(-1)


def rms_norm_backward(upstream: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """See `operators.rms_norm_backward`."""
    return _norm_gradient(_wide(upstream), x, scale, weight).to(x.dtype)


def _norm_gradient(upstream: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    normed = _wide(x) * scale[..., None]
    gradient = upstream * (1.0 + _wide(weight))
    return (gradient - normed * (gradient * normed).mean(-1, keepdim=True)) * scale[..., None]


def norm_rotate(heads: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `operators.norm_rotate`."""
    wide = _wide(heads)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    rotated = _rotated(wide * scale * (1.0 + _wide(weight)), _wide(cos), _wide(sin))
    return rotated.to(heads.dtype), scale.squeeze(-1)


def norm_rotate_backward(
    upstream: Tensor, heads: Tensor, scale: Tensor, weight: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """See `operators.norm_rotate_backward`."""
    unrotated = _rotated(_wide(upstream), _wide(cos), -_wide(sin))
    return _norm_gradient(unrotated, heads, scale, weight).to(heads.dtype)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the two halves of each head (Su et al. 2021, arXiv 2104.09864), in the layout of transformers."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `operators.geglu`."""
    return (torch.nn.functional.gelu(_wide(gate), approximate="tanh") * _wide(up)).to(gate.dtype)


def geglu_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `operators.geglu_backward`."""
    x, other, gradient = _wide(gate), _wide(up), _wide(upstream)
    # gelu(x) = x · s(x) with s(x) = sigmoid(2 √(2/π) (x + 0.044715 x³)), the same as with tanh.
    slope = 2 * math.sqrt(2 / math.pi)
    share = torch.sigmoid(slope * (x + 0.044715 * x**3))
    derivative = share + x * share * (1 - share) * slope * (1 + 3 * 0.044715 * x**2)
    activation = x * share
    results = gradient * other * derivative, gradient * activation, activation * other
    first, second, third = (result.to(gate.dtype) for result in results)
    return first, second, third


def online_softmax_(logits: Tensor, highest: Tensor, normalizer: Tensor) -> Tensor:
    """See `operators.online_softmax_`."""
    new_highest = torch.maximum(highest, logits.amax(dim=1).to(highest.dtype))
    rescale = (highest - new_highest).exp_()
    exponentials = logits.to(highest.dtype).sub_(new_highest[:, None]).exp_()
    normalizer.mul_(rescale).add_(exponentials.sum(dim=1))
    highest.copy_(new_highest)
    logits.copy_(exponentials)
    return rescale
