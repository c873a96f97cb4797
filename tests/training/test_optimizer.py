"""AdamW on float32 masters equals torch's AdamW, and loses no update in bf16."""

from typing import Any

import pytest
import torch
from torch import nn

from lorachain.errors import NonFiniteError
from lorachain.training.optimizer import MasterWeightAdamW, master_tensors

SETTINGS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,))]


def set_gradients(target: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in target:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype).to(parameter.grad_dtype)


def test_in_float32_it_is_torch_adamw_bit_for_bit() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = MasterWeightAdamW(ours, compute_dtype=torch.float32, **SETTINGS)
    reference = torch.optim.AdamW(theirs, **SETTINGS)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_updates_smaller_than_an_ulp_add_up_in_bf16() -> None:
    """At 1.0 a bf16 ulp is 2⁻⁷ = 0.0078. Forty steps of 0.0005 add up to 0.02, and without masters to nothing."""
    parameter = nn.Parameter(torch.ones(4))
    optimizer = MasterWeightAdamW([parameter], compute_dtype=torch.bfloat16, lr=5e-4, weight_decay=0.0)
    lost = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    plain = torch.optim.AdamW([lost], lr=5e-4, weight_decay=0.0)
    for _ in range(40):
        parameter.grad = torch.ones(4)
        lost.grad = torch.ones(4, dtype=torch.bfloat16)
        optimizer.step()
        plain.step()
    assert parameter.dtype == torch.bfloat16
    assert (lost == 1).all()
    torch.testing.assert_close(optimizer.masters[0], torch.full((4,), 0.98), atol=1e-4, rtol=0)
    assert (parameter == torch.tensor(0.98, dtype=torch.bfloat16)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_dict_continues_bit_for_bit(dtype: torch.dtype, tmp_path) -> None:  # type: ignore[no-untyped-def]
    ours = parameters()
    optimizer = MasterWeightAdamW(ours, compute_dtype=dtype, **SETTINGS)
    for step in range(5):
        set_gradients(ours, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    again = parameters(seed=9)
    resumed = MasterWeightAdamW(again, compute_dtype=dtype, **SETTINGS)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    for step in range(5, 10):
        for target, stepping in ((ours, optimizer), (again, resumed)):
            set_gradients(target, step)
            stepping.step()
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, resumed.masters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def test_gradients_are_freed_after_a_step_and_masters_have_names() -> None:
    ours = parameters()
    optimizer = MasterWeightAdamW(ours, compute_dtype=torch.bfloat16, **SETTINGS)
    set_gradients(ours, 0)
    optimizer.step()
    assert all(master.grad is None for master in optimizer.masters)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in ours)
    named = master_tensors(optimizer, ["a", "b"])
    assert {name: tensor.dtype for name, tensor in named.items()} == {"a": torch.float32, "b": torch.float32}
    with pytest.raises(ValueError, match="zip"):
        master_tensors(optimizer, ["a"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("spoiled", ["masters", "exp_avg", "exp_avg_sq"])
def test_a_state_that_is_not_finite_is_refused(spoiled: str, value: float) -> None:
    ours = parameters()
    optimizer = MasterWeightAdamW(ours, compute_dtype=torch.bfloat16, **SETTINGS)
    set_gradients(ours, 0)
    optimizer.step()
    assert optimizer.is_finite()
    state = optimizer.state_dict()
    tensor = state["masters"][1] if spoiled == "masters" else state["state"][1][spoiled]
    tensor[0] = value
    assert not optimizer.is_finite()
    other = MasterWeightAdamW(parameters(), compute_dtype=torch.bfloat16, **SETTINGS)
    with pytest.raises(NonFiniteError, match="delete that checkpoint"):
        other.load_state_dict(state)


def test_the_gradients_of_micro_batches_add_up_in_float32() -> None:
    """One micro-batch with a gradient of 1 and 64 with 2⁻⁹, which bf16 would each round away next to 1."""
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = MasterWeightAdamW([parameter], compute_dtype=torch.bfloat16, lr=1e-3, weight_decay=0.0)
    for gradient in (1.0, *[2.0**-9] * 64):
        (parameter * torch.tensor(gradient, dtype=torch.bfloat16)).sum().backward()  # type: ignore[no-untyped-call]
    assert parameter.dtype == torch.bfloat16
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full((4,), 1.125))
    optimizer.step()
    assert torch.equal(optimizer.state[optimizer.masters[0]]["exp_avg"], torch.full((4,), 1.125).mul(1 - 0.9))
