"""RMSNorm, and RMSNorm with rotary positions, in Triton. One program computes one token."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm_kernel(x, weight, residual, result, scales, width, eps, with_residual: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    at = row * width + columns
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    gain = 1.0 + tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + eps)
    normed = values * scale * gain
    if with_residual:
        normed += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + at, normed.to(result.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _norm_backward_kernel(upstream, x, scales, weight, result, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    at = row * width + columns
    scale = tl.load(scales + row)
    normed = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * scale
    gain = 1.0 + tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(upstream + at, mask=inside, other=0.0).to(tl.float32) * gain
    mean = tl.sum(gradient * normed, axis=0) / width
    tl.store(result + at, ((gradient - normed * mean) * scale).to(result.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_kernel(
    x, weight, cos, sin, result, scales, heads, half, eps, head_block: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, head_block)[:, None]
    columns = tl.arange(0, block)[None, :]
    inside = (head < heads) & (columns < half)
    first = (token * heads + head) * 2 * half + columns
    low = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + first + half, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(low * low + high * high, axis=1) / (2 * half) + eps)
    in_row = columns < half
    low = low * scale[:, None] * (1.0 + tl.load(weight + columns, mask=in_row, other=0.0).to(tl.float32))
    high = high * scale[:, None] * (1.0 + tl.load(weight + half + columns, mask=in_row, other=0.0).to(tl.float32))
    # Both halves of `cos` and `sin` are equal.
    cosine = tl.load(cos + token * 2 * half + columns, mask=in_row, other=0.0).to(tl.float32)
    sine = tl.load(sin + token * 2 * half + columns, mask=in_row, other=0.0).to(tl.float32)
    kind = result.dtype.element_ty
    tl.store(result + first, (low * cosine - high * sine).to(kind), mask=inside)
    tl.store(result + first + half, (high * cosine + low * sine).to(kind), mask=inside)
    head_row = tl.arange(0, head_block)
    tl.store(scales + token * heads + head_row, scale, mask=head_row < heads)


@triton.jit
def _rotate_backward_kernel(
    upstream, x, scales, weight, cos, sin, result, heads, half, head_block: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, head_block)[:, None]
    columns = tl.arange(0, block)[None, :]
    inside = (head < heads) & (columns < half)
    in_row = columns < half
    first = (token * heads + head) * 2 * half + columns
    cosine = tl.load(cos + token * 2 * half + columns, mask=in_row, other=0.0).to(tl.float32)
    sine = tl.load(sin + token * 2 * half + columns, mask=in_row, other=0.0).to(tl.float32)
    upstream_low = tl.load(upstream + first, mask=inside, other=0.0).to(tl.float32)
    upstream_high = tl.load(upstream + first + half, mask=inside, other=0.0).to(tl.float32)
    gain_low = 1.0 + tl.load(weight + columns, mask=in_row, other=0.0).to(tl.float32)
    gain_high = 1.0 + tl.load(weight + half + columns, mask=in_row, other=0.0).to(tl.float32)
    low = (upstream_low * cosine + upstream_high * sine) * gain_low
    high = (upstream_high * cosine - upstream_low * sine) * gain_high
    scale = tl.load(scales + token * heads + head, mask=head < heads, other=0.0)
    normed_low = tl.load(x + first, mask=inside, other=0.0).to(tl.float32) * scale
    normed_high = tl.load(x + first + half, mask=inside, other=0.0).to(tl.float32) * scale
    mean = (tl.sum(low * normed_low + high * normed_high, axis=1) / (2 * half))[:, None]
    kind = result.dtype.element_ty
    tl.store(result + first, ((low - normed_low * mean) * scale).to(kind), mask=inside)
    tl.store(result + first + half, ((high - normed_high * mean) * scale).to(kind), mask=inside)


def _warps(elements: int) -> int:
    """Of a program that holds so many elements: about 16 a thread."""
    return max(1, min(16, elements // 512))


def rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """See `operators.rms_norm`; all tensors contiguous, as for the functions below."""
    width = x.shape[-1]
    result, scales = torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)
    block = triton.next_power_of_2(width)
    other = x if residual is None else residual  # not read without a residual
    _norm_kernel[(scales.numel(),)](
        x, weight, other, result, scales, width, eps, residual is not None, block, num_warps=_warps(block)
    )
    return result, scales


def rms_norm_backward(upstream: Tensor, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """See `operators.rms_norm_backward`."""
    result = torch.empty_like(x)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _norm_backward_kernel[(scale.numel(),)](upstream, x, scale, weight, result, width, block, num_warps=_warps(block))
    return result


def norm_rotate(heads: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `operators.norm_rotate`."""
    batch, tokens, count, width = heads.shape
    result, scales = torch.empty_like(heads), heads.new_empty(heads.shape[:-1], dtype=torch.float32)
    head_block, block = triton.next_power_of_2(count), triton.next_power_of_2(width // 2)
    _rotate_kernel[(batch * tokens,)](
        heads, weight, cos, sin, result, scales, count, width // 2, eps, head_block, block,
        num_warps=_warps(2 * head_block * block),
    )  # fmt: skip
    return result, scales


def norm_rotate_backward(
    upstream: Tensor, heads: Tensor, scale: Tensor, weight: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """See `operators.norm_rotate_backward`."""
    batch, tokens, count, width = heads.shape
    result = torch.empty_like(heads)
    head_block, block = triton.next_power_of_2(count), triton.next_power_of_2(width // 2)
    _rotate_backward_kernel[(batch * tokens,)](
        upstream, heads, scale, weight, cos, sin, result, count, width // 2, head_block, block,
        num_warps=_warps(2 * head_block * block),
    )  # fmt: skip
    return result
