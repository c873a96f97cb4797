"""A scaled adapter: what PEFT computes with it, what it merges to, and what its layers are scaled by."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from lora_making import logits, save_adapter_for
from lorachain.weights.dial import adapter_tensors_of, layer_scale, scaled_tensors, write_tensors
from lorachain.weights.load import load_model
from lorachain.weights.lora import load_adapter, set_adapter_tensors
from lorachain.weights.merge import merge_adapter
from lorachain.weights.verify import verify_merge

CPU = torch.device("cpu")


def scaled_copy(adapter: Path, out: Path, scale: float, variant: str = "uniform") -> Path:
    shutil.copytree(adapter, out)
    write_tensors(out, scaled_tensors(adapter_tensors_of(adapter), scale, variant))  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0])
def test_a_scaled_b_is_a_scaled_alpha(kind: str, scale: float, save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny(kind, dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", kind)
    by_alpha = load_adapter(load_model(base, CPU, torch.float32), adapter, trainable=False)
    for module in by_alpha.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] *= scale
    by_b = load_adapter(
        load_model(base, CPU, torch.float32), scaled_copy(adapter, tmp_path / "scaled", scale), trainable=False
    )
    assert torch.allclose(logits(by_alpha), logits(by_b), atol=1e-5, rtol=1e-5)
    trained = load_adapter(load_model(base, CPU, torch.float32), adapter, trainable=False)
    assert torch.allclose(logits(trained), logits(by_b), atol=1e-4) == (scale == 1)


def test_zero_is_the_base(save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny("text", dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    model = load_adapter(load_model(base, CPU, torch.float32), adapter, trainable=False)
    set_adapter_tensors(model, scaled_tensors(adapter_tensors_of(adapter), 0.0, "uniform"))
    assert torch.equal(logits(model), logits(load_model(base, CPU, torch.float32)))


@pytest.mark.parametrize("variant", ["uniform", "lines"])
def test_the_merge_and_its_verification_honour_it(variant: str, save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny("text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    scaled = scaled_copy(adapter, tmp_path / "scaled", 0.4, variant)
    half = merge_adapter(base, scaled, tmp_path / "merged")
    verify_merge(tmp_path / "merged", base=base, adapter=scaled)
    full = merge_adapter(base, adapter, tmp_path / "full")
    norms = {target.module: target.delta_norm for target in full.targets}
    for target in half.targets:
        layer = int(target.module.split(".layers.")[1].split(".")[0])
        factor = 0.4 if variant == "uniform" else 0.4 + 0.6 * layer / 3
        assert target.delta_norm == pytest.approx(factor * norms[target.module], rel=0.02)


def test_only_b_is_scaled(save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny("text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(scaled_copy(adapter, tmp_path / "scaled", 0.5) / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor * 0.5 if "lora_B" in name else tensor)
        assert after[name].dtype == tensor.dtype


def test_lines_rises_to_the_last_layer() -> None:
    assert [layer_scale(layer, 4, 0.2, "lines") for layer in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [layer_scale(layer, 4, 1.0, "lines") for layer in range(5)] == [1.0] * 5
    assert layer_scale(0, 0, 0.2, "lines") == 0.2
    assert layer_scale(3, 4, 0.2, "uniform") == 0.2
