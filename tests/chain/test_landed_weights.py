"""Which weights a stage publishes, and what is said of them: all of it is of the epoch that was kept.

Validation is scripted here, so that the best epoch is not the last one and every score is known.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from chain_making import options_of, run_command_line
from lorachain.artifacts import EpochScore, Ledger, RunState, ValidationHistory, ValidationResult, read_training_info
from lorachain.chain import pipeline, stage_scores, train_stage
from lorachain.chain.tasks.plain_text import PlainTextTask
from lorachain.data import sources
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.records import LETTERS, ExamQuestion
from lorachain.weights.lora import adapter_tensors

WEIGHTS = "adapter_model.safetensors"
RIGHT = [2, 9, 6, 5, 3]
"""Right answers by `letters`, of the validations in their order."""


@dataclass
class Script:
    """Validations that answer as the script says; what the model was when they and the stage's measures ran."""

    right: list[int] = field(default_factory=lambda: list(RIGHT))
    asked: list[int] = field(default_factory=list)
    """Questions of each validation."""
    measured: list[dict[str, Tensor]] = field(default_factory=list)
    """The adapter in the model at each measure of a stage."""

    def validate(
        self, model: nn.Module, encoder: object, questions: Sequence[ExamQuestion], **options: Any
    ) -> ValidationResult:
        number = self.right[len(self.asked)]
        self.asked.append(len(questions))
        return summarize_validation(
            questions, {"letters": answers(questions, number), "options": answers(questions, number // 2)}, "dev", 0.1
        )


def answers(questions: Sequence[ExamQuestion], right: int) -> str:
    """The first `right` questions right, the others wrong."""
    wrong = [LETTERS[(LETTERS.index(question.answer_letter) + 1) % 5] for question in questions]
    return "".join([*(question.answer_letter for question in questions[:right]), *wrong[right:]])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Script()
    measure = PlainTextTask.measure

    def recorded(task: PlainTextTask, model: Any) -> Any:
        script.measured.append({name: tensor.clone() for name, tensor in adapter_tensors(model).items()})
        return measure(task, model)

    monkeypatch.setattr(stage_scores, "validate", script.validate)
    monkeypatch.setattr(pipeline, "merge_and_add_lora", lambda *arguments: None)  # of no interest here
    monkeypatch.setattr(PlainTextTask, "measure", recorded)
    return script


SETTINGS = {
    "00": ("stages.00.epochs=2", "stages.00.max_samples=20", "stages.00.learning_rate=0.02"),
    "01": ("validation.exact_match_entries=1", "stages.01.max_samples=4"),
}


def train(root: Path, stage: str, *options: str) -> str:
    """Runs a stage that is not measured for the ledger, which costs more than the stage; returns its messages."""
    settings = [part for setting in ("ledger.measure=false", *SETTINGS[stage]) for part in ("--set", setting)]
    code, _, err = run_command_line("train", stage, *options_of(root), *settings, *options)
    assert code == 0, err
    return err


def published(root: Path, stage: str = "00") -> Path:
    return root / "model" / f"{stage}_trained" / "tiny"


def scores_of(root: Path, stage: str) -> list[EpochScore]:
    history = ValidationHistory.read(published(root, stage) / "kormedmcqa_validation_results.json").results
    return [score for score in history if score.stage == stage]


def right(score: EpochScore, protocol: str = "letters") -> int:
    return score.result.protocols[protocol].correct


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("last", 2)])
def test_everything_published_is_of_the_epoch_that_was_kept(
    started: Path, script: Script, keep: str, kept: int
) -> None:
    train(started, "00", "--set", f'stages.00.keep="{keep}"', "--set", "training.keep_checkpoints=9")
    scores = scores_of(started, "00")
    assert [(score.epoch, right(score)) for score in scores] == list(enumerate(RIGHT[:3]))
    info = read_training_info(published(started))
    run = started / "model" / "00_training" / "tiny"
    of_epoch = {score.epoch: run / f"checkpoint-{score.step}" for score in scores if score.epoch}

    assert info.validation.epoch_kept == kept
    weights = (published(started) / WEIGHTS).read_bytes()
    assert [weights == (folder / WEIGHTS).read_bytes() for folder in of_epoch.values()] == [
        epoch == kept for epoch in of_epoch
    ]
    # The stage's own measure, before and after training: of the parent's weights, and of those that are published.
    before, after = script.measured
    assert same(before, load_file(started / "model" / "raw_lora_added" / "tiny" / WEIGHTS))
    assert same(after, load_file(published(started) / WEIGHTS))
    assert info.measures.before.keys() == info.measures.after.keys() == {"heldout_perplexity"}
    assert info.measures.before["heldout_perplexity"].value != info.measures.after["heldout_perplexity"].value

    assert info.validation.before is not None
    for protocol in ("letters", "options"):
        assert info.validation.before[protocol] == scores[0].result.protocols[protocol].headline
        assert info.validation.after[protocol] == scores[kept].result.protocols[protocol].headline
    assert info.validation.before["letters"].correct == RIGHT[0]
    assert info.validation.after["letters"].correct == RIGHT[kept]


def test_of_equally_good_epochs_the_earlier_is_kept(started: Path, script: Script) -> None:
    script.right = [2, 7, 7]
    train(started, "00", "--set", 'stages.00.keep="best"')
    assert read_training_info(published(started)).validation.epoch_kept == 1


# ---- comparisons with earlier scores ---------------------------------------------------------------------------------


def exact_mcnemar(lost: int, gained: int) -> float:
    """Two-sided: twice the tail of Binomial(lost + gained, 1/2), at most 1."""
    n = lost + gained
    tail: float = sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2.0**n
    return min(1.0, 2 * tail)


def lost_and_gained(before: ValidationResult, after: ValidationResult, protocol: str) -> tuple[int, int]:
    gold = before.questions.gold
    assert gold == after.questions.gold
    pairs = [
        (old == answer, new == answer)
        for old, new, answer in zip(
            before.questions.chosen[protocol], after.questions.chosen[protocol], gold, strict=True
        )
    ]
    return pairs.count((True, False)), pairs.count((False, True))


def test_scores_are_inherited_and_compared_with_both_starts(started: Path, script: Script) -> None:
    script.right = [5, 9, 1, 8, 0]
    train(started, "00")
    train(started, "01")
    history = ValidationHistory.read(published(started, "01") / "kormedmcqa_validation_results.json").results
    assert [(score.stage, score.epoch, right(score)) for score in history] == [
        *[("00", 0, 5), ("00", 1, 9), ("00", 2, 1)],
        *[("01", 0, 1), ("01", 1, 8), ("01", 2, 0)],
    ]
    # 01 starts with the very model that was validated last: its score is taken over.
    assert len(script.asked) == 3 + 2
    assert history[3].result == history[2].result
    for number, score in enumerate(history):
        starts = {"base model": history[0], "stage start": history[3 if score.stage == "01" else 0]}
        expected = {
            name: start for name, start in starts.items() if start in history[:number]
        }  # nothing is compared with itself
        assert score.compared_with.keys() == expected.keys()
        for name, start in expected.items():
            for protocol, comparison in score.compared_with[name].items():
                lost, gained = lost_and_gained(start.result, score.result, protocol)
                assert (comparison.lost, comparison.gained, comparison.n) == (lost, gained, 10)
                assert comparison.mcnemar_p == pytest.approx(exact_mcnemar(lost, gained))
                assert comparison.summary.count(f"the {name}") == 1
            assert score.compared_with[name].keys() == {"letters", "options"}


# ---- the start score -------------------------------------------------------------------------------------------------


def test_a_start_score_is_of_the_weights_that_the_parent_published(started: Path, script: Script) -> None:
    train(started, "00", "--set", 'stages.00.keep="best"')
    train(started, "01")
    assert right(scores_of(started, "00")[-1]) == RIGHT[2]
    assert right(scores_of(started, "01")[0]) == RIGHT[1]


@pytest.mark.parametrize(
    ("setting", "asked"), [("validation.max_questions=8", 8), ('dtype="bfloat16"', 10)], ids=["dev", "dtype"]
)
def test_a_score_of_other_questions_or_of_a_model_held_otherwise_is_not_taken_over(
    started: Path, script: Script, setting: str, asked: int
) -> None:
    script.right = [*RIGHT, 8]
    train(started, "00")
    train(started, "01", "--set", setting)
    scores = scores_of(started, "01")
    assert script.asked[3:] == [asked] * 3
    assert [score.result.n for score in scores] == [asked] * 3
    assert [right(score) for score in scores] == script.right[3:6]
    # Nor does the ledger take this start for a score of the parent as it was trained.
    row = Ledger.read(started / "model" / "ledger" / "tiny" / "ledger.json").step("00")
    cell = row.cell("exam_letters") if row else None
    assert cell
    if asked == 10:
        assert cell.detail["chosen"] == scores_of(started, "00")[-1].result.questions.chosen["letters"]
    assert [score.compared_with.keys() for score in scores][1:] == [
        {"stage start", "base model"} if asked == 10 else {"stage start"}
    ] * 2


# ---- resuming --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As abrupt as SIGKILL: nothing in lorachain catches it."""


def kill(*arguments: object, **options: object) -> None:
    raise Killed


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    return shutil.copytree(Path(sources.__file__).parent / "samples" / "exam", tmp_path / "exam")


@pytest.mark.parametrize("edited", [False, True])
def test_a_run_does_not_resume_with_scores_of_another_dev_split(
    started: Path, script: Script, exam: Path, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first validation; then a dev question gets another text."""
    with monkeypatch.context() as patch:
        patch.setattr(train_stage, "train", kill)
        with pytest.raises(Killed):
            train(started, "00", "--exam", str(exam))
    assert len(script.asked) == 1
    record = started / "model" / "00_training" / "tiny" / "run.json"
    assert [score.epoch for score in RunState.read(record).scores] == [0]
    if edited:
        for file in exam.rglob("dev.jsonl"):
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            rows = [row | {"question": row["question"] + " (개정)"} for row in rows]
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    err = train(started, "00", "--exam", str(exam))
    assert len(script.asked) == 1 + 2 + edited
    assert ("had other settings or data" in err) == edited
    hashes = {score.result.data_sha256 for score in scores_of(started, "00")}
    assert len(hashes) == 1


def test_a_stage_is_stale_when_sources_are_added_removed_or_exchanged(
    started: Path, script: Script, tmp_path: Path, lorachain: Callable[..., Any]
) -> None:
    def named(names: str) -> list[str]:
        return [part for name in names for part in ("--plain-text", str(tmp_path / f"{name}.jsonl"))]

    for name in "abc":
        text = "\n".join(json.dumps({"text": f"{name} 문서 {i} " * 20}, ensure_ascii=False) for i in range(12))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    train(started, "00", *named("ab"))
    settings = [part for setting in SETTINGS["00"] for part in ("--set", setting)]
    for names in ("ab", "a", "abc", "ac", "ba"):
        code, _, err = lorachain("train", "00", *options_of(started), *settings, *named(names))
        assert code == (0 if names == "ab" else 2), (names, err)
        assert ("stale (" in err) == (names != "ab")
