"""Planted faults: each stops the merge with its own message, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lora_making import edit_tensors, load_plain, save_adapter_for, save_base
from lorachain.errors import AdapterError, LorachainError, ModelError
from lorachain.weights import blockwise
from lorachain.weights.merge import merge_adapter
from lorachain.weights.safetensors_io import INDEX_FILE, weights_sha256

Q0 = "layers.0.self_attn.q_proj"
FACTORS = "adapter_model.safetensors"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = save_base(tmp_path / "base", "text", shard="20KB")
    return base, save_adapter_for(base, tmp_path / "adapter", "text")


def refused(base: Path, adapter: Path, error: type[LorachainError], message: str, **options: Any) -> None:
    out = base.parent / "merged"
    with pytest.raises(error, match=message):
        merge_adapter(base, adapter, out, **options)
    assert sorted(path.name for path in base.parent.iterdir() if "merged" in path.name) == []


def set_config(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{Q0}.lora_A": "base_model.model.model.layers.0.self_attn.quarry.lora_A.weight"}, "quarry.*does not have"),
        ({f"{Q0}.lora_A": None}, "q_proj has .*lora_B.weight and lacks its other factor"),
        ({f"{Q0}.lora_A": None, f"{Q0}.lora_B": None}, "lacks the tensors of 1 layers, first model.layers.0.self_attn"),
        ({f"{Q0}.lora_B": lambda t: t.index_fill(0, torch.tensor([3]), float("nan"))}, "not finite"),
        ({f"{Q0}.lora_A": lambda t: t * float("inf")}, "not finite"),
        ({f"{Q0}.lora_A": lambda t: t[:2].contiguous()}, r"has shape \[2, 32\]; rank 4 on this model needs \[4, 32\]"),
        ({f"{Q0}.lora_B": lambda t: t[:-1].contiguous()}, r"shape \[31, 4\].*\[32, 4\]"),
        ({f"{Q0}.lora_A": lambda t: t.double()}, "F64; allowed: BF16, F16, F32"),
        (
            {f"{Q0}.lora_A": "base_model.model.model.embed_tokens.lora_embedding_A"},
            "adapts the embeddings",
        ),
        ({f"{Q0}.lora_A": "base_model.model.lm_head.weight"}, "nor a copy of the base's own weight"),
        ({f"{Q0}.lora_A": "base_model.model.model.embed_tokens.lora_A.weight"}, "adapts the embeddings"),
        ({f"{Q0}.lora_A": "base_model.model.model.norm.lora_A.weight"}, "adapts a Gemma3RMSNorm"),
    ],
)
def test_a_damaged_adapter_file(
    pair: tuple[Path, Path], changes: dict[str, str | Callable[[torch.Tensor], torch.Tensor] | None], message: str
) -> None:
    base, adapter = pair
    edit_tensors(adapter / FACTORS, **changes)
    refused(base, adapter, AdapterError, message)


def test_one_layer_twice_under_two_names(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    tensors = load_file(adapter / FACTORS)
    key = next(name for name in tensors if f"{Q0}.lora_A" in name)
    save_file(tensors | {key.removeprefix("base_model.model."): tensors[key].clone()}, adapter / FACTORS)
    refused(base, adapter, AdapterError, "are for the same layer")


def test_tensors_that_target_modules_does_not_name(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    set_config(adapter, target_modules=["q_proj"])
    refused(base, adapter, AdapterError, "adapts 4 layers, first .*v_proj, which target_modules does not name")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora.*DoRA scales the whole weight"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*whole modules"),
        ({"trainable_token_indices": [3]}, "rows of the embeddings"),
        ({"init_lora_weights": "pissa"}, "pissa.*changed the base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 3}, "rank 3 on this model"),
    ],
)
def test_what_is_not_plain_lora(pair: tuple[Path, Path], change: dict[str, object], message: str) -> None:
    base, adapter = pair
    set_config(adapter, **change)
    refused(base, adapter, AdapterError, message)


def test_fan_in_fan_out_changes_nothing_on_linear_layers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """PEFT resets it with a warning for nn.Linear, so the merge is the same."""
    base, adapter = pair
    expected = merge_adapter(base, adapter, tmp_path / "a").merged_sha256
    set_config(adapter, fan_in_fan_out=True)
    assert merge_adapter(base, adapter, tmp_path / "b").merged_sha256 == expected


def test_tied_head_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["lm_head"])
    refused(base, adapter, AdapterError, "head and embeddings share")


def test_embeddings_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    model = get_peft_model(load_plain(base, "text"), LoraConfig(target_modules=["embed_tokens"]))
    model.save_pretrained(str(tmp_path / "adapter"))
    refused(base, tmp_path / "adapter", AdapterError, "embeddings, whole modules and biases are not merged")


@pytest.mark.parametrize(("kind", "other"), [("text", "multimodal"), ("multimodal", "text")])
def test_an_adapter_for_the_other_class(tmp_path: Path, kind: str, other: str) -> None:
    base, foreign = save_base(tmp_path / "base", kind), save_base(tmp_path / "foreign", other)
    adapter = save_adapter_for(foreign, tmp_path / "adapter", other)
    refused(base, adapter, AdapterError, "belongs to another model or class")


def test_a_swapped_base(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    trained_on = weights_sha256(base)
    shard = next(path for path in sorted(base.glob("*.safetensors")) if b"embed_tokens" in path.read_bytes()[:4096])
    edit_tensors(shard, embed_tokens=lambda t: t + 1)
    refused(base, adapter, AdapterError, "was trained on a base with the hash", expected_base_sha256=trained_on)


def test_updates_that_are_all_lost_to_rounding(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=1e-12)
    refused(base, adapter, AdapterError, "changes nothing: every update is below half an ulp")


def test_a_merge_that_overflows(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text", dtype=torch.float16)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=1e6)
    refused(base, adapter, AdapterError, "base \\+ adapter is not finite")


def test_a_head_in_the_adapter_that_differs_from_the_bases(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text", tie_word_embeddings=False)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["lm_head"])
    edit_tensors(adapter / FACTORS, **{"base_layer": lambda t: t + 1})
    refused(base, adapter, AdapterError, "lm_head.base_layer.weight .* nor a copy of the base's own weight")


def test_a_truncated_shard(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    shard = sorted(base.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(base, adapter, ModelError, f"{shard.name} is truncated")


def test_a_file_that_is_not_safetensors(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    (adapter / FACTORS).write_bytes(b"\x80\x04pickle")
    refused(base, adapter, AdapterError, "truncated or not a safetensors")


def test_a_missing_shard(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    shard = sorted(base.glob("*.safetensors"))[1]
    shard.unlink()
    refused(base, adapter, ModelError, f"names {shard.name}, which is missing")


def edit_index(base: Path, edit: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((base / INDEX_FILE).read_text())
    edit(index["weight_map"])
    (base / INDEX_FILE).write_text(json.dumps(index))


def test_an_index_that_names_a_missing_tensor(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    edit_index(base, lambda weight_map: weight_map.update({"model.ghost.weight": next(iter(weight_map.values()))}))
    refused(base, adapter, ModelError, "wrong about 1 tensors, first model.ghost.weight")


def test_an_index_that_points_to_the_wrong_shard(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    files = sorted(path.name for path in base.glob("*.safetensors"))
    edit_index(base, lambda weight_map: weight_map.update({"model.norm.weight": files[0]}))
    refused(base, adapter, ModelError, "wrong about 1 tensors, first model.norm.weight")


def test_an_index_that_points_out_of_the_directory(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    edit_index(base, lambda weight_map: weight_map.update({"model.norm.weight": "../elsewhere.safetensors"}))
    refused(base, adapter, ModelError, "allowed: a .safetensors file in the same directory")


def test_a_base_that_lacks_a_tensor(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    edit_tensors(base / "model.safetensors", **{"layers.1.mlp.up_proj": None})
    refused(base, adapter, ModelError, r"1 of its tensors are missing \(first: model.layers.1.mlp.up_proj.weight\)")


def test_a_base_with_the_configuration_of_another_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    edit_tensors(base / "model.safetensors", **{"layers.1.mlp.up_proj": lambda t: t[:-1].contiguous()})
    refused(base, adapter, ModelError, "use the config.json that belongs to these weights")


def test_a_quantized_base(pair: tuple[Path, Path]) -> None:
    base, adapter = pair
    config = json.loads((base / "config.json").read_text())
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    refused(base, adapter, ModelError, "is quantized; use the original weights")


def test_a_base_without_weights(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    refused(tmp_path / "base", tmp_path, ModelError, "contains no weights")


def test_a_tensor_that_keeps_no_update_is_allowed_where_another_one_does(tmp_path: Path) -> None:
    """Only an adapter that changes nothing at all is refused; what one tensor loses is in the report."""
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    edit_tensors(adapter / FACTORS, **{f"{Q0}.lora_B": lambda t: t * 1e-12})
    report = merge_adapter(base, adapter, tmp_path / "merged")
    lost = {target.module for target in report.targets if target.lost_to_rounding == target.updates}
    assert lost == {f"model.{Q0}"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_machine_that_rounds_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """One per cent more than one rounding step is an error: the ruler is made one per cent shorter here."""
    base = save_base(tmp_path / "base", "text", dtype=dtype)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    measure = blockwise.half_ulp
    monkeypatch.setattr(blockwise, "half_ulp", lambda values: 0.99 * measure(values))
    refused(base, adapter, ModelError, r"is 1\.0\d\d half-ulps from base \+ delta, more than one rounding")
