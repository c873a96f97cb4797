"""The operators' gradients are those of autograd in float64, and their shapes are known without computing."""

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lorachain.kernels import operators, plain


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_gradients_of_the_norm() -> None:
    x, weight, residual = random(3, 5, 8), random(8, seed=1).detach(), random(3, 5, 8, seed=2)
    upstream = random(3, 5, 8, seed=3).detach()
    result, scale = plain.rms_norm(x, weight, residual, 1e-6)
    expected, of_residual = torch.autograd.grad(result, (x, residual), upstream)
    torch.testing.assert_close(operators.rms_norm_backward(upstream, x.detach(), scale.detach(), weight), expected)
    assert torch.equal(of_residual, upstream)


def test_gradients_of_the_norm_with_rotary_positions() -> None:
    heads, weight = random(2, 5, 3, 8), random(8, seed=1).detach()
    angles = random(2, 5, 4, seed=2).detach()
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    upstream = random(2, 5, 3, 8, seed=3).detach()
    result, scale = plain.norm_rotate(heads, weight, cos, sin, 1e-6)
    (expected,) = torch.autograd.grad(result, heads, upstream)
    ours = operators.norm_rotate_backward(upstream, heads.detach(), scale.detach(), weight, cos, sin)
    torch.testing.assert_close(ours, expected)


def test_gradients_of_the_gated_activation() -> None:
    gate, up = random(7, 6), random(7, 6, seed=1)
    upstream = random(7, 6, seed=2).detach()
    product = plain.geglu(gate, up)
    expected = torch.autograd.grad(product, (gate, up), upstream)
    *gradients, again = operators.geglu_backward(upstream, gate.detach(), up.detach())
    for result, gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(result, gradient)
    torch.testing.assert_close(again, product.detach())


def test_the_online_softmax_is_a_softmax() -> None:
    logits = 5 * random(4, 30).detach()
    highest, normalizer = torch.full((4,), -math.inf, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    parts: list[Tensor] = []
    for block in torch.split(logits, 7, dim=1):
        part = block.contiguous()
        rescale = operators.online_softmax_(part, highest, normalizer)
        parts = [earlier * rescale[:, None] for earlier in parts] + [part]
    torch.testing.assert_close(torch.cat(parts, 1) / normalizer[:, None], logits.softmax(1))


def test_shapes_and_types_are_those_of_real_results() -> None:
    """What torch.compile and FakeTensorMode see."""
    x, weight = torch.randn(2, 5, 3, 8).bfloat16(), torch.randn(8).bfloat16()
    cos, scale = torch.randn(2, 5, 8).bfloat16(), torch.rand(2, 5, 3)
    calls = {
        "rms_norm": (x, weight, x, 1e-6),
        "rms_norm_backward": (x, x, scale, weight),
        "norm_rotate": (x, weight, cos, cos, 1e-6),
        "norm_rotate_backward": (x, x, scale, weight, cos, cos),
        "geglu": (x, x),
        "geglu_backward": (x, x, x),
        "online_softmax_": (x[0, 0].clone(), scale[0, 0].clone(), scale[0, 0].clone()),
    }
    for name, arguments in calls.items():
        operator = getattr(torch.ops.lorachain, name)
        with FakeTensorMode() as mode:
            fake = operator(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
        real = operator(*arguments)
        for ours, expected in zip(*((r,) if isinstance(r, Tensor) else r for r in (fake, real)), strict=True):
            assert (ours.shape, ours.dtype, ours.stride()) == (expected.shape, expected.dtype, expected.stride()), name
