"""Fused products of adapted layers: what PEFT computes, with its gradients, in float64."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lorachain.weights import lora_products
from lorachain.weights.lora_products import adapted_geglu, adapted_products, plain_lora

NAMES = ["first", "second", "third"]
WIDTHS = [12, 8, 8]


class _Layers(nn.Module):
    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(10, width, bias=bias) for width in WIDTHS)
        self.down = nn.Linear(10, 6, bias=False)


def layers(*, bias: bool = False, targets: list[str] | None = None, **options: Any) -> list[nn.Module]:
    """The three layers and `down`, with factors that are not zero, in float64."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets or [*NAMES, "down"], **options)
    model: Any = get_peft_model(_Layers(bias=bias), config).double().train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    inner = model.base_model.model
    return [inner.first, inner.second, inner.third, inner.down]


def numbers(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor], modules: list[nn.Module]) -> list[Tensor]:
    """Of a sum of squares, so that each output's gradient differs."""
    total = sum((output.square() * (index + 1)).sum() for index, output in enumerate(outputs))
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    assert isinstance(total, Tensor)
    return list(torch.autograd.grad(total, [*inputs, *trained]))


@pytest.mark.parametrize("count", [1, 3])
def test_products_and_gradients_are_those_of_peft(count: int) -> None:
    modules, hidden = layers()[:count], numbers(2, 7, 10, seed=1)
    assert all(plain_lora(module, hidden) for module in modules)
    results, expected = adapted_products(hidden, modules), tuple(module(hidden) for module in modules)
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other)
    ours, theirs = (gradients(outputs, [hidden], modules) for outputs in (results, expected))
    assert len(ours) == 1 + 2 * count
    for result, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result, other)


@pytest.mark.parametrize("adapted", [True, False])
def test_the_down_projection_of_a_gated_activation(adapted: bool) -> None:
    down = layers()[3] if adapted else layers(targets=NAMES)[3]
    gate, up = numbers(2, 7, 10, seed=1), numbers(2, 7, 10, seed=2)
    result = adapted_geglu(gate, up, down)
    expected = down(nn.functional.gelu(gate, approximate="tanh") * up)
    torch.testing.assert_close(result, expected)
    trained = [down] if adapted else []
    ours, theirs = (gradients((output,), [gate, up], trained) for output in (result, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_an_input_without_a_gradient_gets_none() -> None:
    """As in the first layer, below which nothing is trained."""
    modules, hidden = layers()[:3], numbers(2, 7, 10, seed=1).detach()
    for result in gradients(adapted_products(hidden, modules), [], modules):
        assert result.isfinite().all()
        assert result.norm() > 0


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.3}, {"use_dora": True}, {"bias": True}, {"targets": ["first", "third"]}],
    ids=lambda options: next(iter(options)),
)
def test_layers_that_compute_something_else_are_called_as_they_are(options: dict[str, Any]) -> None:
    modules, hidden = layers(**options)[:3], numbers(2, 7, 10, seed=1)
    assert not all(plain_lora(module, hidden) for module in modules)
    torch.manual_seed(3)
    results = adapted_products(hidden, modules)
    torch.manual_seed(3)
    for result, module in zip(results, modules, strict=True):
        torch.testing.assert_close(result, module(hidden))


def test_a_disabled_adapter_is_not_added() -> None:
    modules, hidden = layers()[:3], numbers(2, 7, 10, seed=1)
    for module in modules:
        module.enable_adapters(False)  # type: ignore[operator]
    results = adapted_products(hidden, modules)
    assert all(
        torch.equal(result, module.get_base_layer()(hidden))  # type: ignore[operator]
        for result, module in zip(results, modules, strict=True)
    )


def test_a_base_in_4_bits_is_multiplied_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)

    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (
                bnb.nn.Linear4bit(64, width, bias=False, compute_dtype=torch.float32, quant_type="nf4")
                for width in (96, 128)
            )

    base: Any = Quantized().to("cpu")
    base.is_loaded_in_4bit = True
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=["first", "second"])).train()
    modules = [model.base_model.model.first, model.base_model.model.second]
    for module in modules:
        nn.init.normal_(module.lora_B["default"].weight, std=0.1)
        assert module.base_layer.weight.quant_state is not None
    hidden = torch.randn(2, 5, 64, requires_grad=True)
    expected = tuple(module(hidden) for module in modules)
    theirs = gradients(expected, [hidden], modules)
    dense = Mock(side_effect=lora_products._dense)
    monkeypatch.setattr(lora_products, "_dense", dense)
    results = adapted_products(hidden, modules)
    assert dense.call_count == 2
    for result, other in zip(results, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-3, atol=1e-3)
    for result, other in zip(gradients(results, [hidden], modules), theirs, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-3, atol=1e-2)
    assert dense.call_count == 4, "each weight is de-quantized once more, for the gradient"
