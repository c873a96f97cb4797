"""The Triton kernels compute what the plain functions compute, up to one rounding step of the result's type.

`test_triton_kernels.py` runs this file in a process of its own, because Triton decides when it is imported whether it
interprets kernels on a CPU or compiles them for a GPU.
"""

import os

import pytest
import torch
from torch import Tensor

from lorachain.kernels import plain, triton_elementwise, triton_norms

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
pytestmark = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def random(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def assert_within_one_step(result: Tensor, expected: Tensor) -> None:
    """Of the type's rounding, relative to the largest value of the row: sums are computed in another order."""
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    assert result.isfinite().all()
    step = torch.finfo(result.dtype).eps * expected.float().abs().amax(-1, keepdim=True)
    assert ((result.float() - expected.float()).abs() <= step * (1 if result.dtype == torch.bfloat16 else 8)).all()


@pytest.mark.parametrize("with_residual", [False, True])
def test_norm(dtype: torch.dtype, with_residual: bool) -> None:
    x, weight = random(dtype, 2, 3, 40), random(dtype, 40, seed=1)
    residual = random(dtype, 2, 3, 40, seed=2) if with_residual else None
    result, scale = triton_norms.rms_norm(x, weight, residual, 1e-6)
    expected, expected_scale = plain.rms_norm(x, weight, residual, 1e-6)
    assert_within_one_step(result, expected)
    torch.testing.assert_close(scale, expected_scale)
    upstream = random(dtype, 2, 3, 40, seed=3)
    gradient = triton_norms.rms_norm_backward(upstream, x, scale, weight)
    assert_within_one_step(gradient, plain.rms_norm_backward(upstream, x, scale, weight))


@pytest.mark.parametrize("heads", [1, 3])
def test_norm_with_rotary_positions(dtype: torch.dtype, heads: int) -> None:
    x, weight = random(dtype, 2, 5, heads, 24), random(dtype, 24, seed=1)
    angles = torch.arange(10.0, device=DEVICE).view(2, 5, 1) / torch.arange(1.0, 13.0, device=DEVICE)
    cos, sin = (torch.cat([part, part], -1).to(dtype) for part in (angles.cos(), angles.sin()))
    result, scale = triton_norms.norm_rotate(x, weight, cos, sin, 1e-6)
    expected, expected_scale = plain.norm_rotate(x, weight, cos, sin, 1e-6)
    assert_within_one_step(result, expected)
    torch.testing.assert_close(scale, expected_scale)
    upstream = random(dtype, 2, 5, heads, 24, seed=3)
    gradient = triton_norms.norm_rotate_backward(upstream, x, scale, weight, cos, sin)
    assert_within_one_step(gradient, plain.norm_rotate_backward(upstream, x, scale, weight, cos, sin))


def test_gated_activation(dtype: torch.dtype) -> None:
    gate, up, upstream = (3 * random(dtype, 37, 41, seed=seed) for seed in range(3))
    assert_within_one_step(triton_elementwise.geglu(gate, up), plain.geglu(gate, up))
    results = triton_elementwise.geglu_backward(upstream, gate, up)
    for result, expected in zip(results, plain.geglu_backward(upstream, gate, up), strict=True):
        assert_within_one_step(result, expected)


def test_online_softmax(dtype: torch.dtype) -> None:
    logits = 4 * random(dtype, 3, 9000)
    states = [(torch.full((3,), -torch.inf, device=DEVICE), torch.zeros(3, device=DEVICE)) for _ in range(2)]
    for block in (logits[:, :4500].contiguous(), logits[:, 4500:].contiguous()):
        ours, reference = block.clone(), block.clone()
        rescale = triton_elementwise.online_softmax_(ours, *states[0])
        expected_rescale = plain.online_softmax_(reference, *states[1])
        assert_within_one_step(ours, reference)
        torch.testing.assert_close(rescale, expected_rescale)
    (highest, normalizer), (expected_highest, expected_normalizer) = states
    assert torch.equal(highest, expected_highest)
    torch.testing.assert_close(normalizer, expected_normalizer)
    torch.testing.assert_close(highest + normalizer.log(), logits.float().logsumexp(1))
