"""What a merge writes beside the weights: its report, its paths, and what it says while it runs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_making import edit_tensors, save_adapter_for, save_base
from lorachain.artifacts import MergeReport
from lorachain.errors import ModelError, WorkspaceError
from lorachain.weights import merge
from lorachain.weights.merge import merge_adapter, unchanged_layers
from lorachain.weights.merge_report import read_merge_report
from lorachain.weights.safetensors_io import open_shards

Pair = tuple[Path, Path]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    base = save_base(tmp_path / "base", "text", shard="20KB")
    return base, save_adapter_for(base, tmp_path / "adapter", "text")


def test_paths_in_the_report_lead_from_where_the_directory_will_be(pair: Pair, tmp_path: Path) -> None:
    base, adapter = pair
    report = merge_adapter(base, adapter, tmp_path / "a" / "b" / "merged", final=tmp_path / "merged")
    assert (report.base_path, report.adapter_path, report.base_name) == ("../base", "../adapter", None)
    report = merge_adapter(base, adapter, tmp_path / "a" / "merged", base_name="tiny")
    assert (report.base_path, report.adapter_path, report.base_name) == (None, "../../adapter", "tiny")


def test_paths_in_the_report_are_of_directories_not_of_links_to_them(pair: Pair, tmp_path: Path) -> None:
    """A relative path through a link would lead elsewhere from the directory that the link points to."""
    real = tmp_path / "disk" / "far" / "away"
    real.mkdir(parents=True)
    (tmp_path / "out").symlink_to(real)
    for path in pair:
        path.with_name(f"{path.name}-link").symlink_to(path)
    base, adapter = (path.with_name(f"{path.name}-link") for path in pair)
    report = merge_adapter(base, adapter, tmp_path / "out" / "merged")
    assert (report.base_path, report.adapter_path) == ("../../../../base", "../../../../adapter")
    assert (real / "merged" / str(report.base_path)).resolve() == pair[0].resolve()


def test_progress_is_in_bytes_from_tensor_to_tensor(pair: Pair, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    merge_adapter(*pair, tmp_path / "merged", on_progress=lambda done, total: seen.append((done, total)))
    shards = open_shards(pair[0])
    sizes = [tensor.size for shard in shards.shards for tensor in shard.tensors]
    assert seen == [(sum(sizes[: i + 1]), shards.total_bytes) for i in range(len(sizes))]


def test_the_check_sees_the_complete_directory_and_its_report_is_the_one_that_is_kept(
    pair: Pair, tmp_path: Path
) -> None:
    seen: list[Path] = []

    def check(folder: Path, report: MergeReport) -> MergeReport:
        assert read_merge_report(folder) == report
        assert {path.name for path in pair[0].iterdir()} <= {path.name for path in folder.iterdir()}
        assert not (tmp_path / "merged").exists()
        seen.append(folder)
        return report.model_copy(update={"base_name": "checked"})

    report = merge_adapter(*pair, tmp_path / "merged", check=check)
    assert len(seen) == 1
    assert report.base_name == "checked"
    assert read_merge_report(tmp_path / "merged") == report


def test_what_the_check_raises_undoes_the_merge(pair: Pair, tmp_path: Path) -> None:
    def refuse(folder: Path, report: MergeReport) -> MergeReport:
        raise ModelError("logits differ")

    with pytest.raises(ModelError, match="logits differ"):
        merge_adapter(*pair, tmp_path / "merged", check=refuse)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_the_report_names_adapter_settings_and_what_was_merged_into(pair: Pair, tmp_path: Path) -> None:
    report = merge_adapter(*pair, tmp_path / "merged", quantization="nf4")
    assert (report.quantization, report.weights, report.dequantized) == ("nf4", "original", {})
    written = json.loads((tmp_path / "merged" / "merge_report.json").read_text())
    assert written["packages"].keys() >= {"torch", "peft"}
    totals = written["totals"]
    assert totals["targets"] == len(report.targets) == 8
    assert totals["untouched"] == len(report.untouched) == len(open_shards(pair[0]).tensors) - 8
    assert totals["max_error_half_ulps"] == max(target.max_error_half_ulps for target in report.targets)


@pytest.mark.parametrize("how", ["B", "scale"])
def test_a_layer_that_was_not_trained_keeps_its_own_bytes(pair: Pair, tmp_path: Path, how: str) -> None:
    """A sum would turn -0.0 into 0.0, and count updates of zero."""
    base, adapter = pair
    layer, other = "layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"
    shard = next(path for path in base.glob("*.safetensors") if any(layer in name for name in load_file(path)))
    edit_tensors(shard, **{f"{layer}.weight": lambda t: torch.full_like(t, -0.0)})
    if how == "B":
        edit_tensors(adapter / "adapter_model.safetensors", **{f"{layer}.lora_B": torch.zeros_like})
    else:
        config = adapter / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": {layer: 0}}))
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert unchanged_layers(report) == [f"model.{layer}"]
    of_layer = {target.module: target for target in report.targets}[f"model.{layer}"]
    assert of_layer.base_sha256 == of_layer.merged_sha256
    measured = (of_layer.delta_norm, of_layer.max_error_half_ulps, of_layer.updates, of_layer.lost_to_rounding)
    assert measured == (0, 0, 0, 0)
    merged = load_file(tmp_path / "merged" / shard.name)[f"model.{layer}.weight"]
    assert torch.equal(merged.view(torch.int16), torch.full_like(merged, -0.0).view(torch.int16))
    assert {t.module: t.updates for t in report.targets}[f"model.{other}"] > 0


def test_too_little_space_is_found_before_anything_is_written(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required: list[tuple[Path, int]] = []

    def require(target: Path, needed: int) -> None:
        required.append((target, needed))
        raise WorkspaceError("no space")

    monkeypatch.setattr(merge, "require_space", require)
    with pytest.raises(WorkspaceError, match="no space"):
        merge_adapter(*pair, tmp_path / "merged")
    assert required == [(tmp_path / "merged", open_shards(pair[0]).total_bytes)]


def test_only_companions_that_exist_are_copied(pair: Pair, tmp_path: Path) -> None:
    base, adapter = pair
    (base / "NOTICE").write_text("terms")
    (base / "LICENSE").mkdir()
    (base / "other.txt").write_text("not of the model")
    merge_adapter(base, adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "NOTICE").read_text() == "terms"
    assert not (tmp_path / "merged" / "LICENSE").exists()
    assert not (tmp_path / "merged" / "other.txt").exists()
