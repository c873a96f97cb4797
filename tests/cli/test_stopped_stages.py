"""A stage that does harm is not published, as a user sees it: exit code 3, nothing trained again, and ways on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import options_of, run_command_line
from lorachain.artifacts import Ledger
from lorachain.chain import merge_stage, train_stage
from lorachain.weights.merge import merge_adapter

Run = Callable[..., tuple[int, str, str]]
DOCUMENTS = ("--set", "ledger.documents=16")
GATE = (
    *DOCUMENTS,
    *("--set", "gates.korean.max_loss=5"),
    *("--set", "gates.korean.unit=percent"),
    *("--set", "gates.korean.against=parent"),
)
LEARNS = ("--learning-rate", "0.05")
"""Of stage 00: a model of random weights learns some Korean, which can be lost."""
HARMFUL = ("--learning-rate", "0.1")
"""Of stage 01: hundreds of times what it is trained with."""


@pytest.fixture(scope="module")
def stopped_once(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A workspace in which stage 01 was stopped: to be copied, with exit code and messages."""
    root = shutil.copytree(begun, tmp_path_factory.mktemp("stopped") / "workspace")
    code, _, err = run_command_line("train", "00", *options_of(root), *DOCUMENTS, *LEARNS)
    assert code == 0, err
    code, _, err = run_command_line("train", "01", *options_of(root), *GATE, *HARMFUL)
    return root, code, err


@pytest.fixture
def stopped(stopped_once: tuple[Path, int, str], tmp_path: Path) -> Path:
    return shutil.copytree(stopped_once[0], tmp_path / "stopped")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the stage is trained again")

    monkeypatch.setattr(train_stage, "train", refuse)


def ledger(root: Path) -> Ledger:
    return Ledger.read(root / "model" / "ledger" / "tiny" / "ledger.json")


def outcomes(root: Path, step: str = "01") -> dict[str, str]:
    row = ledger(root).step(step)
    return {gate.measure: gate.outcome for gate in row.gates} if row else {}


def test_harm_is_not_published(stopped_once: tuple[Path, int, str]) -> None:
    root, code, err = stopped_once
    assert code == 3
    assert "Traceback" not in err
    kept = root / "model" / "01_training" / "tiny" / "unpublished"
    for part in (
        "error: step 01 is not published: perplexity, general Korean",
        "% lost, 5 tolerated, p",
        f"Its adapter is kept in {kept}.",
        "--accept-harm",
        "raise gates.korean.max_loss",
    ):
        assert part in err
    assert not (root / "model" / "01_trained").exists()
    for name in ("adapter_model.safetensors", "training_info.json", "kormedmcqa_validation_results.json"):
        assert (kept / name).is_file()
    assert outcomes(root) == {"exam_letters": "passed", "korean": "failed"}


def test_run_again_it_is_stopped_again_without_training(stopped: Path, no_training: None, lorachain: Run) -> None:
    code, _, err = lorachain("train", "01", *options_of(stopped), *GATE, *HARMFUL)
    assert code == 3
    assert "step 01 is not published" in err
    code, out, _ = lorachain("status", *options_of(stopped))
    assert "partial: trained" in out
    code, out, _ = lorachain("ledger", *options_of(stopped))
    assert code == 0
    assert "stopped by a gate" in " ".join(out.split())


def test_harm_is_accepted(stopped: Path, no_training: None, lorachain: Run) -> None:
    kept = stopped / "model" / "01_training" / "tiny" / "unpublished"
    weights = (kept / "adapter_model.safetensors").read_bytes()
    code, _, err = lorachain("train", "01", *options_of(stopped), *GATE, *HARMFUL, "--accept-harm")
    assert code == 0, err
    assert "gate of step 01, accepted: perplexity, general Korean" in err
    assert (stopped / "model" / "01_trained" / "tiny" / "adapter_model.safetensors").read_bytes() == weights
    assert not kept.exists()
    assert outcomes(stopped)["korean"] == "accepted"
    code, _, err = lorachain("train", "01", *options_of(stopped), *GATE, *HARMFUL)
    assert code == 0
    assert err.count("is finished") == 2  # with the merge


def test_a_raised_gate_publishes_without_training(stopped: Path, no_training: None, lorachain: Run) -> None:
    raised = (*GATE, "--set", "gates.korean.max_loss=1e9")
    code, _, err = lorachain("train", "01", *options_of(stopped), *raised, *HARMFUL)
    assert code == 0, err
    assert outcomes(stopped)["korean"] == "passed"
    assert (stopped / "model" / "01_trained" / "tiny" / "training_info.json").is_file()


def test_other_settings_train_again(stopped: Path, lorachain: Run) -> None:
    code, _, err = lorachain("train", "01", *options_of(stopped), *GATE)
    assert code == 0, err
    assert "an earlier run of stage 01 had other settings" in err
    assert outcomes(stopped)["korean"] == "passed"


def test_a_warning_does_not_stop(stopped: Path, no_training: None, lorachain: Run) -> None:
    code, _, err = lorachain("train", "01", *options_of(stopped), *GATE, *HARMFUL, "--set", "gates.korean.on_fail=warn")
    assert code == 0, err
    assert "gate of step 01, failed: perplexity, general Korean" in err
    assert outcomes(stopped)["korean"] == "failed"


def test_what_was_published_before_stays(stopped: Path, lorachain: Run) -> None:
    options = (*options_of(stopped), *GATE)
    assert lorachain("train", "01", *options)[0] == 0
    final = stopped / "model" / "01_trained" / "tiny"
    before = (final / "adapter_model.safetensors").read_bytes()
    code, _, err = lorachain("train", "01", *options, *HARMFUL, "--yes")
    assert code == 3, err
    assert (final / "adapter_model.safetensors").read_bytes() == before
    _, out, _ = lorachain("ledger", *options_of(stopped))
    assert "stopped by a gate" in " ".join(out.split())


def test_the_merge_is_gated(finished_copy: Path, lorachain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge computes with weights that training did not see: a harmful one is not kept."""
    merged = finished_copy / "model" / "01_another_lora_added" / "tiny"
    shutil.rmtree(merged)
    shutil.rmtree(finished_copy / "model" / "02_trained")
    # Stage 01 is measured as it was; every row of its ledger but that of the merge is there.
    path = finished_copy / "model" / "ledger" / "tiny" / "ledger.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    row = next(step for step in stored["steps"] if step["name"] == "merge")
    cell = next(cell for cell in row["cells"] if cell["measure"] == "exam_letters")
    wrong = cell["correct"].replace("1", "0")
    for step in stored["steps"]:
        for one in step["cells"]:
            if one["measure"] == "exam_letters":
                correct = wrong if step["name"] == "merge" else "1" * len(wrong)
                one.update(correct=correct, value=correct.count("1") / len(correct))
    path.write_text(json.dumps(stored), encoding="utf-8")
    calls: list[object] = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        return merge_adapter(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(merge_stage, "merge_adapter", counted)
    options = options_of(finished_copy)
    mine = finished_copy / "mine.txt"
    mine.write_text("글\n", encoding="utf-8")
    # A new text: the row is compared again, with the scores that were planted.
    code, _, err = lorachain("train", "01", *options, "--ledger-text", mine)
    assert code == 3, err
    assert "step merge is not published: exam dev, letters 0.0 %" in err
    assert not merged.exists()
    assert not list(merged.parent.parent.rglob("*.lorachain-partial"))
    code, _, err = lorachain("train", "01", *options, "--ledger-text", mine, "--accept-harm")
    assert code == 0, err
    assert (merged / "training_info.json").is_file()
    assert len(calls) == 2
    assert outcomes(finished_copy, "merge") == {"exam_letters": "accepted"}


def test_a_gate_has_no_effect_on_init(started: Path, lorachain: Run) -> None:
    code, _, err = lorachain("init", *options_of(started), "--set", "gates.korean.max_loss=5")
    assert code == 2
    assert "gates.korean.max_loss has no effect on `lorachain init`" in err
