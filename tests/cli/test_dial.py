"""`lorachain dial`, and gates with on_fail = "dial": the largest scale that passes is applied and recorded."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chain_making import make_workspace, options_of, run_command_line
from lorachain.artifacts import DialReport, Ledger, ValidationHistory, read_training_info
from lorachain.chain import train_stage
from lorachain.provenance import adapter_sha256

Run = Callable[..., tuple[int, str, str]]
DOCUMENTS = ("--set", "ledger.documents=16")
GATE = ("--set", "gates.korean.unit=percent", "--set", "gates.korean.against=parent")
HARMFUL = ("--learning-rate", "0.02")


@dataclass(frozen=True)
class Stopped:
    """A workspace in which stage 01 was stopped, and a loss of general Korean that scale 0.9 has and 1 exceeds."""

    root: Path
    between: float
    out: str


@pytest.fixture(scope="module")
def dialed(save_tiny_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Of a model with four layers, which the learning rates below harm so much and no more."""
    folder = tmp_path_factory.mktemp("dial")
    root = make_workspace(folder / "workspace", save_tiny_in(folder))
    code, _, err = run_command_line("init", *options_of(root))
    assert code == 0, err
    options = (*options_of(root), *DOCUMENTS)
    assert run_command_line("train", "00", *options, "--learning-rate", "0.05")[0] == 0
    code, _, err = run_command_line("train", "01", *options, *GATE, "--set", "gates.korean.max_loss=1", *HARMFUL)
    assert code == 3, err
    assert "lorachain dial 01 --model tiny" in err
    assert "--set gates.korean.max_loss=1" in err.partition("lorachain dial 01")[2]
    code, out, err = run_command_line("dial", "01", "--model", "tiny", "--workspace", root, "--scales", "0.5,0.9")
    assert code == 0, err
    ledger = Ledger.read(root / "model" / "ledger" / "tiny" / "ledger.json")
    parent, trained = (ledger.step(name) for name in ("00", "01"))
    report = DialReport.read(root / "model" / "ledger" / "tiny" / "dial-01-uniform.json")
    assert [point.scale for point in report.points] == [0.9, 0.5]
    assert [point.passes for point in report.points] == [False, False]  # by the gate that stopped the stage
    cells = [row.cell("korean") for row in (parent, trained, report.points[0].row) if row]
    start, one, nine_tenths = (cell.value for cell in cells if cell)
    assert start < nine_tenths < one
    return Stopped(root, 100 * ((one + nine_tenths) / 2 / start - 1), out)


@pytest.fixture
def root(dialed: Stopped, tmp_path: Path) -> Path:
    return shutil.copytree(dialed.root, tmp_path / "copy")


def gate(dialed: Stopped) -> tuple[str, ...]:
    return (*DOCUMENTS, *GATE, "--set", f"gates.korean.max_loss={dialed.between}")


def scaled_by(root: Path, before: Path, scale: float) -> bool:
    """Whether B of the published adapter is that of `before`, scaled."""
    final = load_file(root / "model" / "01_trained" / "tiny" / "adapter_model.safetensors")
    original = load_file(before / "model" / "01_training" / "tiny" / "unpublished" / "adapter_model.safetensors")
    return all(
        torch.equal(final[name], tensor * scale if ".lora_B." in name else tensor) for name, tensor in original.items()
    )


def check_published(root: Path, dialed: Stopped) -> None:
    final = root / "model" / "01_trained" / "tiny"
    assert scaled_by(root, dialed.root, 0.9)
    info = read_training_info(final)
    original = dialed.root / "model" / "01_training" / "tiny" / "unpublished"
    assert info.dial is not None
    assert (info.dial.scale, info.dial.variant) == (0.9, "uniform")
    assert info.dial.original_adapter_sha256 == adapter_sha256(original)
    assert info.adapter_sha256 == adapter_sha256(final)
    history = ValidationHistory.read(final / "kormedmcqa_validation_results.json").results
    assert history[-1].epoch == info.validation.epoch_kept
    assert {name: score.correct for name, score in info.validation.after.items()} == {
        name: score.correct for name, score in history[-1].result.protocols.items()
    }
    assert info.measures.after["exact_match"].n == read_training_info(original).measures.after["exact_match"].n
    row = Ledger.read(root / "model" / "ledger" / "tiny" / "ledger.json").step("01")
    assert row is not None
    assert row.model.adapter_sha256 == info.adapter_sha256
    assert {result.measure: result.outcome for result in row.gates}["korean"] == "passed"


def test_the_table(dialed: Stopped) -> None:
    text = " ".join(dialed.out.split())
    assert "tiny: stage 01 at several scales (uniform)" in text
    for part in ("1 (trained)", "0.9", "0.5", "base", "perplexity, general Korean", "fail"):
        assert part in text


def test_apply(root: Path, dialed: Stopped, lorachain: Run) -> None:
    options = ("--model", "tiny", "--workspace", root, "--config", root / "chain.toml")
    code, _, err = lorachain("dial", "01", *options, *gate(dialed), "--scales", "0.9,0.5", "--apply")
    assert code == 0, err
    assert "stage 01 is scaled by 0.9 and published" in err
    check_published(root, dialed)
    assert not (root / "model" / "01_training" / "tiny" / "unpublished").exists()
    # The merge honours it, and the chain verifies.
    code, _, err = lorachain("train", "01", *options_of(root), *DOCUMENTS, *HARMFUL)
    assert code == 0, err
    assert "is finished" in err
    code, _, err = lorachain("verify", "--model", "tiny", "--workspace", root)
    assert code == 0, err
    code, _, err = lorachain("dial", "01", *options)
    assert code == 2
    assert "was scaled by 0.9 (uniform) already" in err


def test_a_gate_that_dials(root: Path, dialed: Stopped, lorachain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the stage is trained again")

    monkeypatch.setattr(train_stage, "train", refuse)
    on_fail = ("--set", "gates.korean.on_fail=dial")
    code, _, err = lorachain("train", "01", *options_of(root), *gate(dialed), *HARMFUL, *on_fail)
    assert code == 0, err
    assert "stage 01 is scaled by 0.9, the largest scale that passes the gates" in err
    check_published(root, dialed)


def test_no_scale_passes(root: Path, lorachain: Run) -> None:
    """The gate that stopped the stage is the recorded one."""
    before = Ledger.read(root / "model" / "ledger" / "tiny" / "ledger.json")
    code, _, err = lorachain("dial", "01", "--model", "tiny", "--workspace", root, "--scales", "0.9", "--apply")
    assert code == 3
    assert "no scale of 0.9 of stage 01 passes every gate" in err
    assert not (root / "model" / "01_trained").exists()
    assert Ledger.read(root / "model" / "ledger" / "tiny" / "ledger.json") == before
    on_fail = (*DOCUMENTS, *GATE, "--set", "gates.korean.max_loss=0.1", "--set", "gates.korean.on_fail=dial")
    code, _, err = lorachain("train", "01", *options_of(root), *on_fail, *HARMFUL)
    assert code == 3
    assert "of stage 01 passes every gate" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("01", "--scales", "0.5,1.5"), "--scales has 1.5; allowed: numbers from 0"),
        (("01", "--scales", "half"), "--scales is 'half'; give numbers"),
        (("merge",), "unknown stage 'merge'; allowed: 00, 01, 02"),
        (("02",), "02_trained/tiny is missing; create it with: lorachain train 02"),
        (("01", "--set", "lora.rank=8"), "lora.rank has no effect on `lorachain dial 01`"),
    ],
)
def test_user_errors(dialed: Stopped, lorachain: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = lorachain("dial", *arguments, "--model", "tiny", "--workspace", dialed.root)
    assert code == 2
    assert message in err
