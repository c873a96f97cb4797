"""A chain up to its merge on a base in 4 bits, as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chain_making import make_workspace, options_of, run_command_line
from lorachain.weights import quantized
from lorachain.weights.load import load_model

STAGES = ("00", "01")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    parent = tmp_path_factory.mktemp("quantized")
    workspace = make_workspace(parent / "workspace", save_tiny_in(parent, "multimodal"))
    configuration = workspace / "chain.toml"
    settings = configuration.read_text().replace("float32", "bfloat16").replace("epochs = 2", "epochs = 1")
    configuration.write_text('quantization = "nf4"\n' + settings.replace("max_samples = 20", "max_samples = 12"))
    for command in (("init",), ("train", "00"), ("train", "01")):
        code, _, err = run_command_line(*command, *options_of(workspace))
        assert code == 0, err
        assert "Failed to load" not in err
    return workspace


def test_every_stage_records_the_quantization_of_its_base(root: Path) -> None:
    for stage in STAGES:
        info = json.loads((root / "model" / f"{stage}_trained" / "tiny" / "training_info.json").read_text())
        assert info["depends_on"]["settings"]["quantization"] == "nf4"
        assert info["configuration"]["quantization"] == "nf4"
        assert "bitsandbytes" in info["versions"]
        log = (root / "model" / f"{stage}_training" / f"train_{stage}_debug.log").read_text(encoding="utf-8")
        assert "autograd kernel was not registered" not in log
    code, _, err = run_command_line("train", "01", *options_of(root))
    assert (code, err.count("skipped")) == (0, 2)
    not_quantized = root / "plain.toml"
    not_quantized.write_text((root / "chain.toml").read_text().replace("nf4", "none"))
    code, _, err = run_command_line("train", "01", "--model", "tiny", "--workspace", root, "--config", not_quantized)
    assert code == 2
    assert "quantization was nf4, is none" in err


def test_the_merge_is_into_the_original_weights_and_reports_the_difference(root: Path, tmp_path: Path) -> None:
    base = root / "model" / "01_another_lora_added" / "tiny" / "base"
    report = json.loads((base / "merge_report.json").read_text())
    assert (report["quantization"], report["weights"]) == ("nf4", "original")
    figures = report["quantized_base"]
    assert figures["dequantized"]["mean_kl"] < figures["original"]["mean_kl"]
    info = json.loads((base.parent / "training_info.json").read_text())
    assert info["quantized_base"] == figures
    assert not list(base.parent.glob(".*"))
    assert run_command_line("verify", "--model", "tiny", "--workspace", root)[0] == 0

    adapter, weights = root / "model" / "01_trained" / "tiny", root.parent / "tiny-multimodal-0"
    common = ("--into", weights, "--device", "cpu")
    plain = tmp_path / "plain"
    code, out, err = run_command_line("merge", adapter, *common, "--out", plain, "--quantization", "none")
    assert code == 0, err
    assert "against base in" not in out
    ours, theirs = load_file(base / "model.safetensors"), load_file(plain / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    other = tmp_path / "other"
    code, out, err = run_command_line("merge", adapter, *common, "--out", other, "--weights", "dequantized")
    assert code == 0, err
    assert "merged into dequantized weights against base in nf4 + adapter" in " ".join(out.split())
    assert json.loads((other / "merge_report.json").read_text())["quantized_base"] == figures
    assert run_command_line("verify", other)[0] == 0


def test_a_stage_is_scored_on_the_base_that_it_was_trained_on(root: Path, tmp_path: Path) -> None:
    """The score of `eval` is that of the last validation; the public base is scored without quantization."""
    common = ("--model", "tiny", "--workspace", root, "--exam", "sample", "--device", "cpu", "--limit", 10)
    code, _, err = run_command_line("eval", "01", *common, "--out", tmp_path / "a.json")
    assert code == 0, err
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["model"]["quantization"] == "nf4"
    history = json.loads((root / "model" / "01_trained" / "tiny" / "kormedmcqa_validation_results.json").read_text())
    validated = history["results"][-1]["result"]
    assert validated["data_sha256"] == result["data"]["sha256"]
    assert validated["protocols"]["letters"]["correct"] == result["score"]["correct"]
    code, _, err = run_command_line("eval", "base", *common, "--out", tmp_path / "b.json")
    assert code == 0, err
    assert json.loads((tmp_path / "b.json").read_text())["model"]["quantization"] == "none"


def test_a_missing_package_is_reported_before_any_data_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = make_workspace(tmp_path / "fresh", root.parent / "tiny-multimodal-0")
    (fresh / "chain.toml").write_text((root / "chain.toml").read_text())
    assert run_command_line("init", *options_of(fresh))[0] == 0
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    code, _, err = run_command_line("train", "00", *options_of(fresh))
    assert code == 2
    assert "needs the package bitsandbytes" in err
    assert not (fresh / "model" / "00_training" / ".tiny.data").exists()


def test_the_merged_base_is_an_ordinary_model(root: Path) -> None:
    model = load_model(root / "model" / "01_another_lora_added" / "tiny" / "base", torch.device("cpu"))
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
