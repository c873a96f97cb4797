"""`verify_merge` recomputes a merge from the files, and finds what was changed afterwards."""

import json
from pathlib import Path

import pytest
import torch

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
