"""`verify_merge` recomputes a merge from the files, and finds what was changed afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_making import LANGUAGE_LINEAR, edit_tensors, save_adapter_for, save_base
from lorachain.errors import AdapterError, ModelError
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import MERGE_REPORT
from lorachain.weights.verify import verify_merge


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    merge_adapter(base, adapter, tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_correct_merge_passes(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base = save_base(tmp_path / "base", kind, dtype=dtype, shard="30KB")
    adapter = save_adapter_for(base, tmp_path / "adapter", kind, target_modules=LANGUAGE_LINEAR, scale_b=5.0)
    merge_adapter(base, adapter, tmp_path / "merged")
    verify_merge(tmp_path / "merged")


def test_base_and_adapter_may_have_moved(merged: Path) -> None:
    (merged.parent / "base").rename(merged.parent / "elsewhere")
    with pytest.raises(ModelError, match=r"the base of .* is no longer at"):
        verify_merge(merged)
    verify_merge(merged, base=merged.parent / "elsewhere")


def test_the_report_contains_no_absolute_path_and_moves_with_its_directories(merged: Path) -> None:
    assert str(merged.parent) not in (merged / MERGE_REPORT).read_text(encoding="utf-8")
    away = merged.parent.with_name("away")
    merged.parent.rename(away)
    verify_merge(away / "merged")


def test_a_base_with_a_name_is_recorded_by_it(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    report = merge_adapter(base, adapter, tmp_path / "out" / "merged", base_name="tiny", final=tmp_path / "merged")
    assert (report.base_name, report.base_path, report.adapter_path) == ("tiny", None, "../adapter")
    (tmp_path / "out" / "merged").rename(tmp_path / "merged")
    with pytest.raises(ModelError, match=r"the base of .*merged is called tiny; give its directory with --base"):
        verify_merge(tmp_path / "merged")
    verify_merge(tmp_path / "merged", base=base)


def test_a_changed_target_is_found_from_its_values(merged: Path) -> None:
    """Two ulps in one element: the recomputed delta shows it without any hash."""
    edit_tensors(merged / "model.safetensors", **{"layers.0.self_attn.q_proj": two_ulps_off})
    with pytest.raises(ModelError, match=r"q_proj.weight is not base \+ scale\*B@A"):
        verify_merge(merged)


def two_ulps_off(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(torch.int16)[3, 5] += 2
    return tensor


def test_a_changed_untouched_tensor_is_found(merged: Path) -> None:
    edit_tensors(merged / "model.safetensors", **{"layers.0.mlp.up_proj": two_ulps_off})
    with pytest.raises(ModelError, match=r"up_proj\.weight is not a target of the adapter, but differs"):
        verify_merge(merged)


def test_another_base_is_found(merged: Path) -> None:
    for folder in ("base", "merged"):
        edit_tensors(merged.parent / folder / "model.safetensors", **{"layers.0.mlp.up_proj": two_ulps_off})
    with pytest.raises(ModelError, match=r"up_proj\.weight has changed since the merge"):
        verify_merge(merged)


def test_another_configuration_is_found(merged: Path) -> None:
    path = merged / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ModelError, match=r"config\.json has changed"):
        verify_merge(merged)


def test_another_adapter_is_found(merged: Path) -> None:
    save_adapter_for(merged.parent / "base", merged.parent / "other", "text", seed=8)
    with pytest.raises(AdapterError, match="is not the adapter that was merged"):
        verify_merge(merged, adapter=merged.parent / "other")


def test_a_directory_without_a_report_is_not_a_merge(merged: Path) -> None:
    (merged / MERGE_REPORT).unlink()
    with pytest.raises(ModelError, match="was not merged by lorachain"):
        verify_merge(merged)


def edit_report(merged: Path, **changes: object) -> None:
    path = merged / MERGE_REPORT
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def report_of(merged: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((merged / MERGE_REPORT).read_text(encoding="utf-8"))
    return report


def test_an_adapter_that_moved_is_named(merged: Path) -> None:
    (merged.parent / "adapter").rename(merged.parent / "elsewhere")
    with pytest.raises(ModelError, match=r"the adapter of .* is no longer at .*; give its directory with --adapter"):
        verify_merge(merged)
    verify_merge(merged, adapter=merged.parent / "elsewhere")


def test_one_ulp_is_too_much_in_either_direction(tmp_path: Path) -> None:
    """In an element that the merge rounded, towards the exact sum and away from it: half an ulp is one rounding."""
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    merge_adapter(base, adapter, tmp_path / "merged")
    file = tmp_path / "merged" / "model.safetensors"
    good = file.read_bytes()
    for step in (1, -1):

        def one_ulp_off(tensor: torch.Tensor, step: int = step) -> torch.Tensor:
            tensor.view(torch.int16)[3, 5] += step
            return tensor

        edit_tensors(file, **{"layers.0.self_attn.q_proj": one_ulp_off})
        with pytest.raises(ModelError, match=r"q_proj.weight is not base \+ scale\*B@A"):
            verify_merge(tmp_path / "merged")
        file.write_bytes(good)


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_a_float32_sum_that_cancels_may_be_off_by_the_error_of_its_summands(tmp_path: Path, scale: float) -> None:
    """W is the rounded update with the other sign: what remains is rounding, far above half an ulp of itself."""
    base = save_base(tmp_path / "base", "text", dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=scale)
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{which}.weight"].double() for which in "AB")
    cancelling = (-2.0 * (b @ a)).float()
    edit_tensors(base / "model.safetensors", **{name: lambda tensor: cancelling.clone()})
    merge_adapter(base, adapter, tmp_path / "merged")
    verify_merge(tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    key = next(key for key in merged if name in key)
    assert merged[key].abs().max() < 1e-5 * cancelling.abs().max()


def test_the_reports_targets_are_those_of_the_adapter(merged: Path) -> None:
    """One fewer, of which the report says that it was left as it was."""
    report = report_of(merged)
    *targets, last = report["targets"]
    untouched = report["untouched"] | {last["tensor"]: last["merged_sha256"]}
    edit_report(merged, targets=targets, untouched=untouched)
    with pytest.raises(ModelError, match="the report's targets are not the adapter's"):
        verify_merge(merged)


@pytest.mark.parametrize("where", ["report", "merged weights"])
def test_base_merged_weights_and_report_have_the_same_tensors(merged: Path, where: str) -> None:
    name = next(name for name in report_of(merged)["untouched"] if "up_proj" in name)
    if where == "report":
        edit_report(merged, untouched={k: v for k, v in report_of(merged)["untouched"].items() if k != name})
    else:
        edit_tensors(merged / "model.safetensors", **{name: None})
    with pytest.raises(ModelError, match="base, merged weights and report do not have the same tensors"):
        verify_merge(merged)


@pytest.mark.parametrize("change", [lambda tensor: tensor.float(), lambda tensor: tensor.reshape(-1)])
def test_every_tensor_keeps_its_type_and_shape(merged: Path, change: Any) -> None:
    edit_tensors(merged / "model.safetensors", **{"layers.0.mlp.up_proj": change})
    with pytest.raises(ModelError, match=r"up_proj\.weight has another type or shape than in the base"):
        verify_merge(merged)


@pytest.mark.parametrize("part", ["targets", "untouched"])
def test_a_tensor_whose_hash_the_report_does_not_have_has_changed(merged: Path, part: str) -> None:
    """Though its values are right."""
    report = report_of(merged)
    if part == "targets":
        first = report["targets"][0]
        edit_report(merged, targets=[first | {"merged_sha256": "0" * 64}, *report["targets"][1:]])
        name = first["tensor"]
    else:
        name = next(name for name in report["untouched"] if "up_proj" in name)
        edit_report(merged, untouched=report["untouched"] | {name: "0" * 64})
    with pytest.raises(ModelError, match=rf"{name} has changed since the merge"):
        verify_merge(merged)


def test_a_base_of_another_configuration_is_found(merged: Path) -> None:
    path = merged.parent / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ModelError, match=r"base is not the base that .* was merged from"):
        verify_merge(merged)


def test_the_report_is_returned(merged: Path) -> None:
    assert verify_merge(merged).as_dict() == report_of(merged)
