"""`lorachain fit`: sizes of the published models from their config.json, a card's settings, a measured peak."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from chain_making import options_of
from lorachain.artifacts import CardSettings, FitReport, Rejected
from lorachain.chain.context import load_config
from lorachain.chain.stages import find_training_stage
from lorachain.config import ChainConfig
from lorachain.errors import ConfigError
from lorachain.fit.card import parse_size, recommend, usable_bytes, with_settings
from lorachain.fit.energy import EnergyMeter, rapl_joules
from lorachain.fit.estimate import (
    Structure,
    base_bytes,
    largest_micro_batch,
    lora_parameters,
    read_structure,
    stage_memory,
)
from lorachain.report.fit_table import disk_line, measured_table

Run = Callable[..., tuple[int, str, str]]

GEMMA_4B: dict[str, Any] = {
    # google/medgemma-4b-it: what decides its structure.
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "image_token_index": 262144,
    "mm_tokens_per_image": 256,
    "dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
GEMMA_27B_TEXT: dict[str, Any] = {
    # google/medgemma-27b-text-it
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "dtype": "bfloat16",
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 168,
    "sliding_window": 1024,
    "vocab_size": 262144,
}


def save_config(folder: Path, config: dict[str, Any]) -> Path:
    """A directory as the hub lays it, with config.json alone."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Structure]:
    parent = tmp_path_factory.mktemp("configs")
    configs = {"4b": GEMMA_4B, "27b": GEMMA_27B_TEXT}
    return {name: read_structure(save_config(parent / name, config)) for name, config in configs.items()}


def test_sizes_of_the_published_models(structures: dict[str, Structure]) -> None:
    config = load_config()
    # google/gemma-3-4b-it has 4,300,079,472 parameters on the hub, with its vision tower.
    assert structures["4b"].parameters == pytest.approx(4.300e9, rel=0.005)
    assert structures["27b"].parameters == structures["27b"].trained == pytest.approx(27.009e9, rel=0.001)
    assert structures["4b"].trained == pytest.approx(3.880e9, rel=0.005)
    # As in docs/memory.md.
    assert lora_parameters(structures["4b"], config) == 29_802_496
    assert lora_parameters(structures["27b"], config) == 113_516_544
    import torch

    sizes = {kind: base_bytes(structures["27b"], kind, torch.bfloat16) / 1e9 for kind in ("none", "int8", "nf4")}
    assert sizes == pytest.approx({"none": 54.0, "int8": 28.4, "nf4": 16.0}, abs=0.1)


def test_the_largest_micro_batch_of_a_stage() -> None:
    config = load_config()
    sizes = {name: largest_micro_batch(config, find_training_stage(name), packed=False) for name in ("00", "01", "02")}
    assert sizes == {"00": 4096, "01": 4096, "02": 4096}
    few = load_config(overrides=[{"training": {"micro_batch_tokens": 1000}, "stages": {"01": {"batch_size": 1}}}])
    # A row that is longer than micro_batch_tokens is processed alone.
    sizes = {name: largest_micro_batch(few, find_training_stage(name), packed=False) for name in ("00", "01", "02")}
    assert sizes == {"00": 1024, "01": 512, "02": 2048}
    odd = load_config(overrides=[{"training": {"micro_batch_tokens": 5000}, "stages": {"00": {"batch_size": 8}}}])
    assert largest_micro_batch(odd, find_training_stage("00"), packed=False) == 4096
    assert largest_micro_batch(odd, find_training_stage("00"), packed=True) == 5000


def test_memory_of_a_stage(structures: dict[str, Structure]) -> None:
    stage, config = find_training_stage("00"), load_config()
    plain = stage_memory(structures["4b"], config, stage, device_type="cuda", capacity=None)
    assert plain.base == pytest.approx(7.76e9, rel=0.01)
    assert plain.lora == 29_802_496 * 18
    assert plain.activations == pytest.approx(13e9, rel=0.05)  # docs/memory.md
    assert not plain.recomputation
    assert plain.total == plain.base + plain.lora + plain.activations + plain.working
    small = stage_memory(structures["4b"], config, stage, device_type="cuda", capacity=12 * 10**9)
    assert small.recomputation
    assert small.activations < 0.1 * plain.activations
    rank = load_config(overrides=[{"lora": {"rank": 32}}])
    assert stage_memory(structures["4b"], rank, stage, device_type="cuda", capacity=None).lora == 2 * plain.lora


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("24", 24 * 10**9), (" 80 GiB ", 80 * 2**30), ("1.5gb", 15 * 10**8)]
)
def test_sizes_of_a_card(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-4GB", "24MB", "0", "1e3", "99999999999GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="--gpu is "):
        parse_size(text)


def recommended(structures: dict[str, Structure], model: str, size: str) -> CardSettings | None:
    """The settings for a card, which really are what fits, and are valid."""
    config, capacity = load_config(), parse_size(size)
    advice = recommend(structures[model], config, capacity)
    assert all(rejected.needed > usable_bytes(capacity) for rejected in advice.rejected)
    text = advice.toml(model, capacity)
    if advice.settings is None:
        assert text is None
        assert advice.rejected
        return None
    assert text is not None
    loaded: ChainConfig = load_config(overrides=[tomllib.loads(text)])
    assert loaded == with_settings(config, advice.settings)
    for name in ("00", "01", "02"):
        stage = find_training_stage(name)
        need = stage_memory(structures[model], loaded, stage, device_type="cuda", capacity=None)
        assert need.total <= advice.largest.total <= usable_bytes(capacity)
    return advice.settings


@pytest.mark.parametrize(
    ("model", "size", "quantization", "recomputation"),
    [
        ("4b", "80GB", "none", False),
        ("4b", "16GB", "none", True),
        ("27b", "80GB", "none", True),
        ("27b", "40GB", "nf4", True),
        ("27b", "24GB", "nf4", True),
    ],
)
def test_settings_for_a_card(
    structures: dict[str, Structure], model: str, size: str, quantization: str, recomputation: bool
) -> None:
    settings = recommended(structures, model, size)
    assert settings is not None
    assert (settings.quantization, settings.gradient_checkpointing) == (quantization, recomputation)
    assert settings.max_length == {}


def test_a_card_on_which_nothing_fits(structures: dict[str, Structure]) -> None:
    assert recommended(structures, "27b", "16GB") is None


def test_shorter_sequences_are_the_last_resort(structures: dict[str, Structure]) -> None:
    tried = recommend(structures["27b"], load_config(), parse_size("16GB")).rejected
    smallest = next(one for one in reversed(tried) if not one.settings.max_length)
    capacity = next(size for size in range(16 * 10**9, 10**11, 10**7) if usable_bytes(size) >= smallest.needed)
    settings = recommended(structures, "27b", f"{(capacity - 10**8) / 1e9}GB")
    assert settings is not None
    assert settings.max_length == {"02": 1024}


# ---- the command -----------------------------------------------------------------------------------------------------


def report_of(out: str) -> FitReport:
    return FitReport.parse(json.loads(out))


def test_nothing_but_config_json_is_needed(tmp_path: Path, lorachain: Run) -> None:
    folder = save_config(tmp_path / "medgemma-27b", GEMMA_27B_TEXT)
    out_file = tmp_path / "card.toml"
    arguments = ("--gpu", "40GB", "--workspace", tmp_path, "--out", out_file)
    code, out, err = lorachain("fit", folder, *arguments)
    assert code == 0, err
    assert "27,009" in out
    assert "does not fit: bf16, without gradient_checkpointing, micro_batch_tokens 4096: stage" in out
    text = out_file.read_text(encoding="utf-8")
    assert text in out
    assert tomllib.loads(text)["quantization"] == "nf4"
    assert list(folder.iterdir()) == [folder / "config.json"]
    code, _, err = lorachain("fit", folder, *arguments)
    assert code == 2
    assert "exists already" in err


def test_a_card_that_is_too_small(tmp_path: Path, lorachain: Run) -> None:
    folder = save_config(tmp_path / "medgemma-27b", GEMMA_27B_TEXT)
    code, out, _ = lorachain("fit", folder, "--gpu", "8GB", "--workspace", tmp_path)
    assert code == 2
    assert "no settings fit this card" in out
    code, out, _ = lorachain("fit", folder, "--gpu", "8GB", "--workspace", tmp_path, "--json")
    report = report_of(out)
    assert (code, report.recommended, report.configuration) == (2, None, None)
    assert isinstance(report.rejected[0], Rejected)
    assert report.disk.download == report.disk.merged_base == 2 * report.parameters
    assert disk_line(report.model_copy(update={"disk_free": report.disk.total})) is None
    said = disk_line(report.model_copy(update={"disk_free": 5 * 10**9}))
    assert said is not None
    assert said.startswith("the disk is too small: a whole chain takes 1")
    assert "5.00 GB are free" in said


def test_a_model_of_the_workspace_without_a_card(root: Path, lorachain: Run) -> None:
    code, out, err = lorachain("fit", "tiny", *options_of(root)[2:], "--json", "--device", "cpu")
    assert code == 0, err
    report = report_of(out)
    assert (report.model, report.capacity, report.disk.download) == ("tiny", None, 0)
    assert [need.stage for need in report.stages] == ["00", "01", "02"]


def test_a_process_that_needed_no_more_memory_has_no_difference(root: Path, lorachain: Run) -> None:
    code, out, err = lorachain("fit", "tiny", *options_of(root)[2:], "--measure", "02", "--json", "--device", "cpu")
    assert code == 0, err
    report = report_of(out)
    for peak, difference in ((0, "–"), (report.measured[0].calculated * 2, "-50.0%")):
        changed = report.measured[0].model_copy(update={"peak": peak})
        table = measured_table(report.model_copy(update={"measured": (changed,)}))
        assert list(table.columns[5].cells) == [difference]


def test_two_measured_steps(root: Path, lorachain: Run) -> None:
    code, out, err = lorachain(
        "fit", "tiny", *options_of(root)[2:], "--measure", "01", "--measure", "02", "--json", "--device", "cpu"
    )
    assert code == 0, err
    measured = report_of(out).measured
    assert [one.stage for one in measured] == ["01", "02"]
    assert [one.tokens for one in measured] == [2048, 2048]
    assert all(one.tokens_per_second > 0 and one.device == "cpu" for one in measured)
    assert not (root / "model" / "01_training").exists()
    code, out, err = lorachain("fit", "tiny", *options_of(root)[2:], "--measure", "02", "--device", "cpu")
    assert code == 0, err
    assert "two optimizer steps at the limits of the settings" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no-such-model",), "neither a model of the workspace, nor a directory, nor a hub id"),
        (("google/gemma-3-1b-pt",), "config.json of google/gemma-3-1b-pt is not in the local cache"),
        (("tiny", "--gpu", "much"), "--gpu is 'much'; give the card's memory, such as 24GB or 80GiB"),
        (("tiny", "--measure", "07"), "unknown stage '07'"),
        (("tiny", "--out", "new.toml", "--device", "cpu"), "give the card's memory with --gpu"),
    ],
)
def test_user_errors(root: Path, lorachain: Run, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = lorachain("fit", *arguments, *options_of(root)[2:])
    assert code == 2
    assert says in err


def test_weights_are_needed_to_measure(tmp_path: Path, lorachain: Run) -> None:
    folder = save_config(tmp_path / "medgemma-4b", GEMMA_4B)
    code, _, err = lorachain("fit", folder, "--measure", "00", "--workspace", tmp_path, "--device", "cpu")
    assert code == 2
    assert "the weights of medgemma-4b are not on this machine" in err


# ---- the start of a run ----------------------------------------------------------------------------------------------


def test_a_run_that_will_not_fit_says_so_at_its_start(
    root: Path, lorachain: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = lorachain("init", *options_of(root))
    assert (code, "warning" in err) == (0, False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000, total=10**9))
    monkeypatch.setattr("lorachain.fit.warnings.free_disk", lambda place: 1000)
    from lorachain.chain.stages import training_stages
    from lorachain.cli.options import Common, build_context
    from lorachain.fit.warnings import run_warnings

    context = build_context(Common("tiny", root, root / "chain.toml", device="cpu"), "run")
    memory, disk = run_warnings(context, training_stages())
    assert "stage 01 needs up to" in memory
    assert "lorachain fit tiny" in memory
    assert "the disk will probably be full" in disk
    assert list(run_warnings(context, [])) == []


# ---- energy ----------------------------------------------------------------------------------------------------------


def test_energy_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert rapl_joules(tmp_path) is None
    counters = [tmp_path / f"intel-rapl:{number}" / "energy_uj" for number in range(2)]
    for counter in counters:
        counter.parent.mkdir()
        counter.write_text("1000000\n", encoding="utf-8")
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, which its counter contains
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("7\n", encoding="utf-8")
    assert rapl_joules(tmp_path) == 2.0
    monkeypatch.setattr("lorachain.fit.energy.RAPL", tmp_path)
    meter = EnergyMeter(torch.device("cpu"))
    meter.start()
    counters[0].write_text("4500000\n", encoding="utf-8")
    meter.stop()
    assert meter.joules == 3.5
    counters[0].write_text("3\n", encoding="utf-8")  # it wrapped
    wrapped = EnergyMeter(torch.device("cpu"))
    wrapped._started = (0.0, 5.5)
    wrapped.stop()
    assert wrapped.joules is None
