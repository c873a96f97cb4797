"""What a running stage has measured, and where it resumes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lorachain.artifacts import EpochScore, RunState
from lorachain.chain.resume import drop_after, find_resume_point
from lorachain.chain.run_record import RunRecord, open_run
from lorachain.errors import WorkspaceError
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.records import ExamQuestion
from lorachain.training.checkpoints import checkpoint_directory, save_checkpoint

QUESTIONS = [ExamQuestion(f"q{i}", "doctor", f"질문 {i}", ("가", "나", "다", "라", "마"), 0) for i in range(10)]


def score(epoch: int, step: int, right: int, by_options: int = 0) -> EpochScore:
    chosen = {"letters": "A" * right + "B" * (10 - right), "options": "A" * by_options + "B" * (10 - by_options)}
    result = summarize_validation(QUESTIONS, chosen, "dev", 0.0)
    return EpochScore(stage="02", epoch=epoch, step=step, at="2026-01-01", result=result, compared_with={})


def record_of(folder: Path, scores: Sequence[EpochScore]) -> RunRecord:
    record = open_run(folder / "training" / "run" / "run.json", "mine", folder / "superseded")
    for one in scores:
        record.put(one)
    return record


def epochs(record: RunRecord) -> list[int]:
    return [one.epoch for one in record.scores]


def test_a_score_replaces_that_of_its_epoch_and_is_on_disk_at_once(tmp_path: Path) -> None:
    record = record_of(tmp_path, [score(0, 0, 1), score(1, 5, 2), score(1, 5, 3)])
    assert [(one.epoch, one.result.protocols["letters"].correct) for one in record.scores] == [(0, 1), (1, 3)]
    again = open_run(record.path, "mine", tmp_path / "superseded")
    assert again.scores == record.scores
    assert again.moved_to is None
    assert record.score_of(1) == record.scores[1]
    assert record.score_of(2) is None


def test_the_best_epoch(tmp_path: Path) -> None:
    """Most right answers by the protocol; of equals the earlier; never the start; of those that ended by a step."""
    order = [score(3, 15, 8, 2), score(0, 0, 10, 10), score(2, 10, 8, 4), score(1, 5, 3, 5)]
    record = record_of(tmp_path, order)

    def best(protocol: str, up_to: int | None = None) -> int | None:
        found = record.best(protocol, up_to)
        return found.epoch if found else None

    assert (best("letters"), best("options")) == (2, 1)
    assert [best("letters", step) for step in (4, 5, 9, 10, 15)] == [None, 1, 1, 2, 2]
    assert record_of(tmp_path / "other", [score(0, 0, 5)]).best("letters") is None


def test_later_scores_are_dropped_also_on_disk(tmp_path: Path) -> None:
    record = record_of(tmp_path, [score(0, 0, 1), score(1, 5, 1), score(2, 10, 1)])
    record.drop_after(5)
    assert epochs(record) == [0, 1]
    assert [one.epoch for one in RunState.read(record.path).scores] == [0, 1]
    record.path.unlink()
    record.drop_after(5)  # nothing to drop, so nothing to write
    assert not record.path.exists()


def test_the_log_is_dropped_with_the_record(tmp_path: Path) -> None:
    record, log = record_of(tmp_path, [score(0, 0, 1), score(1, 5, 1)]), tmp_path / "log"
    log.write_text("mine step 4/9 loss 1\nother step 7/9 loss 1\nmine step 5/9 loss 1\nsaved\nmine step 10/12 loss 1")
    drop_after(4, record, log, "mine")
    assert epochs(record) == [0]
    assert log.read_text() == "mine step 4/9 loss 1\nother step 7/9 loss 1\nsaved\n"


def test_a_record_is_resumed_by_its_own_run_only(tmp_path: Path) -> None:
    record, superseded = record_of(tmp_path, [score(0, 0, 1)]), tmp_path / "superseded"
    state = record.path
    record.before = {}
    record.write()
    assert (open_run(state, "mine", superseded).before, epochs(open_run(state, "mine", superseded))) == ({}, [0])
    assert not superseded.exists()
    for name in ("checkpoint-5", "reasoning", ".hidden"):
        (state.parent / name).mkdir()
    other = open_run(state, "another", superseded)
    assert (other.before, other.scores, other.moved_to) == (None, [], superseded)
    assert RunState.read(superseded / "run.json").fingerprint == "mine"
    assert RunState.read(state).fingerprint == "another"
    # What was written as reasoning stays, and what a killed write left is nobody's run.
    assert sorted(path.name for path in superseded.iterdir()) == ["checkpoint-5", "run.json"]
    assert sorted(path.name for path in state.parent.iterdir()) == [".hidden", "reasoning", "run.json"]
    # One superseded run is kept.
    third = open_run(state, "third", superseded)
    assert third.moved_to == superseded
    assert RunState.read(superseded / "run.json").fingerprint == "another"


def test_the_record_is_moved_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It marks the directory as ours: a run that is killed in between leaves nothing that is taken for a user's."""
    state, rename, moved = record_of(tmp_path, []).path, Path.rename, []
    for name in ("a", "checkpoint-5", "z"):
        (state.parent / name).mkdir()

    def renamed(self: Path, target: Path) -> Path:
        moved.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    open_run(state, "another", tmp_path / "superseded")
    assert moved[0] == "run.json"
    assert sorted(moved) == ["a", "checkpoint-5", "run.json", "z"]


def test_a_users_directory_in_the_place_of_a_superseded_run(tmp_path: Path) -> None:
    state, superseded = record_of(tmp_path, []).path, tmp_path / "superseded"
    superseded.mkdir()
    (superseded / "thesis.txt").write_text("years of work")
    with pytest.raises(WorkspaceError, match="was not written by lorachain; move it away"):
        open_run(state, "another", superseded)
    assert RunState.read(state).fingerprint == "mine"
    assert open_run(state, "another", superseded, lambda question: True).moved_to == superseded
    assert (tmp_path / "superseded.moved-aside" / "thesis.txt").exists()


def test_without_an_earlier_run_nothing_is_moved(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "reasoning").mkdir()
    record = open_run(tmp_path / "run" / "run.json", "mine", tmp_path / "superseded")
    assert record.moved_to is None
    assert not (tmp_path / "superseded").exists()
    assert record.path.is_file()


# ---- where it resumes ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """Epochs that end at the steps 5, 10 and 15, the best of them the first, with a checkpoint each, and one at 12."""
    record = record_of(tmp_path, [score(0, 0, 1), score(1, 5, 9), score(2, 10, 3), score(3, 15, 4)])
    weights = save({"a": torch.ones(2)})
    for step in (5, 10, 12, 15):
        save_checkpoint(record.path.parent, step, "mine", lambda folder: put(folder / "a.safetensors", weights))
    return record


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damage(run: RunRecord, *steps: int) -> None:
    for step in steps:
        (checkpoint_directory(run.path.parent, step) / "a.safetensors").write_bytes(b"x")


def point(run: RunRecord, protocol: str | None) -> tuple[int, int | None, int]:
    """(step to resume from, step of the best epoch, checkpoints that were skipped)."""
    found = find_resume_point(run.path.parent, run, protocol)
    assert len(found.search.skipped) == len(set(found.search.skipped))
    return found.search.step, found.best_step, len(found.search.skipped)


def test_a_stage_resumes_at_its_newest_complete_checkpoint(run: RunRecord) -> None:
    assert point(run, None) == (15, None, 0)
    assert point(run, "letters") == (15, 5, 0)
    damage(run, 15)
    assert point(run, None) == (12, None, 1)
    assert point(run, "letters") == (12, 5, 1)


def test_without_the_best_epochs_checkpoint_a_stage_resumes_before_it(run: RunRecord) -> None:
    damage(run, 5)
    assert point(run, None) == (15, None, 0)
    assert point(run, "letters") == (0, None, 1)  # from the beginning: epoch 1 is repeated


def test_the_best_is_of_the_epochs_that_end_before_the_checkpoint(run: RunRecord) -> None:
    run.put(score(3, 15, 10))
    assert point(run, "letters") == (15, 15, 0)
    damage(run, 15)
    step, best, skipped = point(run, "letters")
    assert (step, best) == (12, 5)
    assert skipped == 1
    run.put(score(2, 10, 10))
    assert point(run, "letters")[:2] == (12, 10)
    damage(run, 10)
    assert point(run, "letters") == (5, 5, 2)
    messages = find_resume_point(run.path.parent, run, "letters").search.skipped
    assert messages[1].startswith("checkpoint-10 has the best epoch so far, which is repeated: a.safetensors")
