"""Which exam score a stage starts with, and what each of its scores is compared with; no model is scored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_making import training_info
from lorachain.artifacts import EpochScore, MergeInfo, ValidationResult
from lorachain.chain import stage_scores
from lorachain.chain.exams import ExamQuestions
from lorachain.chain.history import read_history, score_epoch, write_history
from lorachain.chain.stage_run import StageRun
from lorachain.chain.stage_scores import record_score, start_score, validate_epoch
from lorachain.evaluation.questions import question_set_hash
from lorachain.processes import Processes
from stage_making import QUESTIONS, NoLedger, make_context, make_run, messages_of, parent_info, score, validation

INHERITED = [score("00", 0, 0, 2), score("00", 1, 5, 4), score("00", 2, 10, 6, 1)]
"""The parent's scores: its last epoch is the one that it published."""


# ---- a score of the history ------------------------------------------------------------------------------------------

entries = st.lists(st.tuples(st.sampled_from(["00", "01"]), st.integers(0, 2), st.booleans()), max_size=5)


@settings(max_examples=40)
@given(entries, st.sampled_from(["00", "01"]))
def test_a_score_is_compared_with_both_starts_where_the_questions_are_the_same(
    drawn: list[tuple[str, int, bool]], stage: str
) -> None:
    """Starts are of epoch 0, each the first of its kind; the other validations are no start."""
    earlier = []
    for number, (of, epoch, same) in enumerate(drawn):
        result = validation(number, questions=QUESTIONS if same else QUESTIONS[:9])
        earlier.append(EpochScore(stage=of, epoch=epoch, step=9, at="2026-01-01", result=result, compared_with={}))
    made = score_epoch(stage, 3, 17, validation(8, 4), earlier)
    assert (made.stage, made.epoch, made.step, made.result) == (stage, 3, 17, validation(8, 4))
    first: dict[str, EpochScore] = {}
    for one in earlier:
        if one.epoch == 0:
            first.setdefault("base model", one)
            if one.stage == stage:
                first.setdefault("stage start", one)
    expected = {name: start for name, start in first.items() if start.result.n == 10}
    assert made.compared_with.keys() == expected.keys()
    for name, start in expected.items():
        compared = made.compared_with[name]
        assert compared.keys() == {"letters", "options"}
        right = start.result.protocols["letters"].correct
        assert (compared["letters"].gained, compared["letters"].lost) == (max(0, 8 - right), max(0, right - 8))
        assert compared["letters"].summary.count(f"the {name}") == 1


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    write_history(tmp_path, INHERITED)
    assert read_history(tmp_path) == INHERITED


# ---- the start score -------------------------------------------------------------------------------------------------


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is validated in place of a model: 3 right answers each time."""
    calls: list[dict[str, Any]] = []

    def validate(model: Any, encoder: Any, questions: Sequence[Any], **options: Any) -> ValidationResult:
        calls.append({"model": model, "encoder": encoder, "questions": questions, **options})
        options["on_progress"](len(questions))
        return validation(3)

    monkeypatch.setattr(stage_scores, "validate", validate)
    return calls


def with_settings(run: StageRun, **settings: str) -> StageRun:
    """The run on a parent whose base was held otherwise."""
    info = cast(Any, run.inputs.parent.info)
    held = info.depends_on.settings.model_copy(update=settings)
    changed = info.model_copy(update={"depends_on": info.depends_on.model_copy(update={"settings": held})})
    return replace_info(run, changed)


def replace_info(run: StageRun, info: Any) -> StageRun:
    """The run on another parent; None: one that kept its last epoch."""
    info = info or parent_info(run.context, kept=2)
    run.inputs = replace(run.inputs, parent=replace(run.inputs.parent, info=info))
    return run


def of_stage(run: StageRun, stage: str) -> StageRun:
    return replace_info(run, cast(Any, run.inputs.parent.info).model_copy(update={"stage": stage}))


def merged(run: StageRun) -> StageRun:
    info = training_info("01")
    fields = {name: getattr(info, name) for name in ("model", "depends_on_sha256", "base", "base_sha256")}
    made = MergeInfo.model_construct(stage="00", adapter_sha256="a" * 64, **fields)
    return replace_info(run, made)


def without_history(run: StageRun) -> StageRun:
    run.inputs = replace(run.inputs, inherited=[])
    return run


def other_questions(run: StageRun) -> StageRun:
    run.inputs = replace(run.inputs, questions=ExamQuestions(QUESTIONS[:9], QUESTIONS, []))
    return run


OTHERWISE: dict[str, Callable[[StageRun], StageRun]] = {
    "the parent is another stage": lambda run: of_stage(run, "02"),
    "the parent is a merge": merged,
    "the parent has no scores": without_history,
    "the parent's base had another type": lambda run: with_settings(run, dtype="float32"),
    "the parent's base was quantized": lambda run: with_settings(run, quantization="nf4"),
    "other questions": other_questions,
    "another epoch was kept": lambda run: replace_info(run, parent_info(run.context, kept=1)),
}


def test_the_parents_last_score_is_taken_over(tmp_path: Path, validated: list[dict[str, Any]]) -> None:
    run = replace_info(make_run(make_context(tmp_path), inherited=INHERITED), None)
    start = start_score(run, cast(Any, "model"))
    assert (start.stage, start.epoch, start.step) == ("01", 0, 0)
    assert start.result == INHERITED[-1].result
    assert start.compared_with.keys() == {"base model"}
    assert not validated


@pytest.mark.parametrize("otherwise", OTHERWISE)
@pytest.mark.parametrize("in_ledger", [True, False])
def test_a_score_of_another_model_or_of_other_questions_is_not(
    tmp_path: Path, validated: list[dict[str, Any]], otherwise: str, in_ledger: bool
) -> None:
    """Then the ledger's is, which is of the same model and questions, and without one the model is validated."""
    run = OTHERWISE[otherwise](replace_info(make_run(make_context(tmp_path), inherited=INHERITED), None))
    dev = run.inputs.questions.dev
    ledger = NoLedger({"letters": "A" * len(dev), "options": "B" * len(dev)} if in_ledger else None)
    run.ledger = cast(Any, ledger)
    start = start_score(run, cast(Any, "model"))
    assert (start.stage, start.epoch, start.step) == ("01", 0, 0)
    assert ledger.asked == [question_set_hash(dev)]
    assert len(validated) == (not in_ledger)
    right = {name: protocol.correct for name, protocol in start.result.protocols.items()}
    assert right == ({"letters": len(dev), "options": 0} if in_ledger else {"letters": 3, "options": 0})
    assert start.result.split == "dev"
    if in_ledger:
        assert start.result.n == len(dev)
        # Of what the parent inherited, the start of the chain.
        assert start.compared_with.keys() == ({"base model"} if run.inputs.inherited and len(dev) == 10 else set())


# ---- an epoch's score ------------------------------------------------------------------------------------------------


def test_an_epoch_is_validated_on_the_dev_questions_and_compared_with_all_before_it(
    tmp_path: Path, validated: list[dict[str, Any]]
) -> None:
    context = make_context(tmp_path, "validation.token_budget=777")
    run = make_run(context, inherited=INHERITED, scores=[score("01", 0, 0, 6)])
    made = validate_epoch(run, cast(Any, "model"), epoch=2, step=11)
    assert (made.stage, made.epoch, made.step) == ("01", 2, 11)
    assert made.compared_with.keys() == {"base model", "stage start"}
    assert made.compared_with["stage start"]["letters"].lost == 3
    assert made.compared_with["base model"]["letters"].gained == 1
    (call,) = validated
    assert (call["model"], call["encoder"], call["token_budget"]) == ("model", "the encoder", 777)
    assert call["questions"] == QUESTIONS
    assert messages_of(context).bars == [("validating on 10 dev questions", 10)]
    assert messages_of(context).progress == [(10, "")]


@pytest.mark.parametrize("main", [True, False])
def test_the_main_process_alone_keeps_scores(tmp_path: Path, main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(Processes, "wait", lambda processes: waited.append(processes.main))
    run = make_run(make_context(tmp_path), processes=Processes(rank=0 if main else 1, world=2))
    record_score(run, score("01", 1, 5, 4))
    assert len(run.record.scores) == main
    assert run.record.path.exists() == main
    assert waited == [main]
