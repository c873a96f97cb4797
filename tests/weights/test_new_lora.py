"""A new LoRA changes nothing, and only the requested LoRA is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conftest import make_text_model
from lorachain.errors import AdapterError
from lorachain.weights.load import load_model
from lorachain.weights.lora import (
    PeftModel,
    add_new_lora,
    check_trainable,
    load_adapter,
    refuse_second_adapter,
    save_adapter,
    trainable_names,
)

IDS = torch.tensor([[2, 70, 101, 33, 8, 300, 261, 45, 90]])
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def new_lora(model: PreTrainedModel, targets: list[str] = ALL, seed: int = 0, **settings: Any) -> PeftModel:
    values: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "use_rslora": False, **settings}
    return add_new_lora(model, base_path="somewhere/base", target_modules=targets, seed=seed, **values)


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_lora_changes_no_logit_bit_for_bit(tiny_model: PreTrainedModel, dtype: torch.dtype) -> None:
    model: Any = tiny_model
    model.to(dtype)
    before = logits(model)
    with_lora = new_lora(model).eval()
    assert torch.equal(logits(with_lora), before)
    for name, parameter in with_lora.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    assert not torch.equal(logits(with_lora), before)


def test_a_new_lora_read_from_disk_changes_no_logit_bit_for_bit(save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    for kind in ("text", "multimodal"):
        base = save_tiny(kind)
        model = load_model(base, torch.device("cpu"))
        before = logits(model)
        save_adapter(new_lora(model), folder := make_directory(tmp_path / f"lora-{kind}"))
        again = load_adapter(load_model(base, torch.device("cpu")), folder, trainable=True)
        assert torch.equal(logits(again), before)
        check_trainable(again)


def test_the_trainable_set_is_exactly_the_loras(tiny_model: PreTrainedModel) -> None:
    targets = ["q_proj", "down_proj"]
    model = new_lora(tiny_model, targets)
    prefix = "base_model.model.model." + ("language_model." if hasattr(tiny_model.config, "vision_config") else "")
    expected = {
        f"{prefix}layers.{layer}.{part}.{target}.lora_{side}.default.weight"
        for layer in range(4)
        for part, target in (("self_attn", "q_proj"), ("mlp", "down_proj"))
        for side in "AB"
    }
    assert set(trainable_names(model)) == expected
    check_trainable(model)


def test_the_vision_tower_is_never_touched(tiny_model: PreTrainedModel) -> None:
    """The tower has layers of the same names (q_proj, k_proj, v_proj); none of them gets a LoRA or a gradient."""
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    model = new_lora(tiny_model)
    assert not [name for name in trainable_names(model) if "vision" in name or "multi_modal_projector" in name]
    model(input_ids=IDS).logits.float().pow(2).mean().backward()
    after = model.get_base_model().state_dict()
    for name, tensor in before.items():
        stored = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        assert stored is not None
        assert torch.equal(stored, tensor), name


@pytest.mark.parametrize("targets", [["q_proj", "qproj"], ["fc1"], ["embed_tokens"], ["lm_head"], ["q_proj", ""], []])
def test_a_target_that_matches_nothing_is_an_error(tiny_model: PreTrainedModel, targets: list[str]) -> None:
    """`fc1` is a layer of the vision tower only."""
    before = logits(tiny_model)
    with pytest.raises(AdapterError, match=r"match no linear layer of the language model; allowed: down_proj, gate"):
        new_lora(tiny_model, targets)
    assert not [name for name, _ in tiny_model.named_parameters() if "lora" in name]
    assert torch.equal(logits(tiny_model), before)


def test_anything_else_that_would_be_trained_is_an_error(tiny_model: PreTrainedModel) -> None:
    model = new_lora(tiny_model)
    norm = next(p for name, p in model.named_parameters() if name.endswith("norm.weight"))
    norm.requires_grad_(True)
    with pytest.raises(AdapterError, match="not the LoRA's"):
        check_trainable(model)
    norm.requires_grad_(False)
    next(p for name, p in model.named_parameters() if "lora_A" in name).requires_grad_(False)
    with pytest.raises(AdapterError, match="missing"):
        check_trainable(model)


def test_no_adapter_is_put_on_an_adapter(tiny_model: PreTrainedModel, tmp_path: Path) -> None:
    model = new_lora(tiny_model)
    save_adapter(model, tmp_path)
    carriers: list[Any] = [model, model.get_base_model()]
    for carrier in carriers:
        with pytest.raises(AdapterError, match=r"merge it first.*cannot be put on an adapter"):
            refuse_second_adapter(carrier)
        with pytest.raises(AdapterError, match="has an adapter already"):
            new_lora(carrier)
        with pytest.raises(AdapterError, match="has an adapter already"):
            load_adapter(carrier, tmp_path, trainable=False)


def test_the_same_seed_is_the_same_adapter_file(tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((3, 3, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.manual_seed(number)  # the global random state has no influence
        save_adapter(new_lora(make_text_model(), seed=seed), folder)
        files.append([(folder / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]
