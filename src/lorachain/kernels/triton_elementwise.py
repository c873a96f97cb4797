"""The gated activation and its gradients, and the softmax of the loss, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
_VOCABULARY_BLOCK = 4096


@triton.jit
def _sigmoid_share(x, with_derivative: tl.constexpr):
    """s(x) of gelu(x) = x s(x), and the derivative of gelu: see `plain.geglu_backward`."""
    slope: tl.constexpr = 1.5957691216057308  # 2 √(2/π)
    share = tl.sigmoid(slope * (x + 0.044715 * x * x * x))
    derivative = share
    if with_derivative:
        derivative = share + x * share * (1.0 - share) * slope * (1.0 + 3.0 * 0.044715 * x * x)
    return share, derivative


@triton.jit
def _geglu_kernel(gate, up, result, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    share, _ = _sigmoid_share(x, False)
    product = x * share * tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + at, product.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _geglu_backward_kernel(upstream, gate, up, gate_gradient, up_gradient, product, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(upstream + at, mask=inside, other=0.0).to(tl.float32)
    share, derivative = _sigmoid_share(x, True)
    kind = product.dtype.element_ty
    tl.store(gate_gradient + at, (gradient * other * derivative).to(kind), mask=inside)
    tl.store(up_gradient + at, (gradient * x * share).to(kind), mask=inside)
    tl.store(product + at, (x * share * other).to(kind), mask=inside)


@triton.jit
def _online_softmax_kernel(logits, highest, normalizer, rescale, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * width
    columns = tl.arange(0, block)
    old = tl.load(highest + row)
    largest = tl.full((block,), float("-inf"), tl.float32)
    for first in range(0, width, block):
        inside = first + columns < width
        values = tl.load(start + first + columns, mask=inside, other=float("-inf")).to(tl.float32)
        largest = tl.maximum(largest, values)
    new = tl.maximum(old, tl.max(largest, axis=0))
    sums = tl.zeros((block,), tl.float32)
    for first in range(0, width, block):
        inside = first + columns < width
        values = tl.load(start + first + columns, mask=inside, other=float("-inf")).to(tl.float32)
        exponentials = tl.exp(values - new)
        sums += exponentials
        tl.store(start + first + columns, exponentials.to(logits.dtype.element_ty), mask=inside)
    factor = tl.exp(old - new)
    tl.store(rescale + row, factor)
    tl.store(normalizer + row, tl.load(normalizer + row) * factor + tl.sum(sums, axis=0))
    tl.store(highest + row, new)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `operators.geglu`; all tensors contiguous, as for the functions below."""
    result = torch.empty_like(gate)
    count = gate.numel()
    _geglu_kernel[(triton.cdiv(count, _BLOCK),)](gate, up, result, count, _BLOCK)
    return result


def geglu_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `operators.geglu_backward`."""
    gate_gradient, up_gradient, product = (torch.empty_like(gate) for _ in range(3))
    count = gate.numel()
    _geglu_backward_kernel[(triton.cdiv(count, _BLOCK),)](
        upstream, gate, up, gate_gradient, up_gradient, product, count, _BLOCK
    )
    return gate_gradient, up_gradient, product


def online_softmax_(logits: Tensor, highest: Tensor, normalizer: Tensor) -> Tensor:
    """See `operators.online_softmax_`."""
    rescale = torch.empty_like(highest)
    count, width = logits.shape
    _online_softmax_kernel[(count,)](logits, highest, normalizer, rescale, width, _VOCABULARY_BLOCK, num_warps=8)
    return rescale
