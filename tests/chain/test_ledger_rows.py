"""The rows of a ledger: what they are compared with, what replaces what, and what counts as scored already."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_making import HASH, exam_cell, ledger_step
from lorachain.artifacts import Ledger, LedgerStep, Noise
from lorachain.chain.ledger import compared, compared_again, with_cells, with_row
from lorachain.chain.ledger_data import LedgerData
from lorachain.chain.ledger_jobs import Job, jobs
from lorachain.chain.ledger_steps import Stored, same_holding, step_names
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.records import ExamQuestion
from reference.ledger import Shares

PARENTS = {"base": None, "00": "base", "01": "00", "merge": "01", "02": "merge"}
HITS = {"base": "1100110011", "00": "1111110000", "01": "0000110011", "merge": "0000110111", "02": "1111111111"}
NOISE = {"exam_letters": Noise(version="1", data_sha256=HASH, value=0.1, n=2)}


def row(name: str, hits: str | None = None) -> LedgerStep:
    return ledger_step(name, PARENTS[name], exam_cell(hits or HITS[name]))


def ledger_of(*names: str) -> Ledger:
    ledger = Ledger(model="tiny", settings={}, noise=NOISE)
    for name in names:
        ledger = with_row(ledger, row(name))
    return ledger


@settings(max_examples=20)
@given(st.permutations(list(PARENTS)), st.integers(1, 5))
def test_rows_are_in_the_order_of_the_chain_and_compared_whatever_was_measured_first(
    order: list[str], count: int
) -> None:
    """A step that is measured late changes what the others are compared with."""
    ledger = Ledger(model="tiny", settings={}, noise=NOISE)
    for name in order[:count]:
        ledger = compared_again(with_row(ledger, row(name)), name)
    assert [step.name for step in ledger.steps] == [name for name in step_names() if name in order[:count]]
    for step in ledger.steps:
        (cell,) = step.cells
        others = {"parent": PARENTS[step.name], "base": "base" if step.name != "base" else None}
        wanted = {kind: other for kind, other in others.items() if other in order[:count]}
        assert cell.against.keys() == wanted.keys()
        for kind, other in wanted.items():
            before, after = ([hit == "1" for hit in HITS[name]] for name in (str(other), step.name))
            change = cell.against[kind]  # type: ignore[index]
            expected = Shares(before, after)
            assert change.difference == pytest.approx(expected.difference)
            assert change.p == pytest.approx(expected.p)
            assert (change.verdict == "within noise") == (0 < abs(expected.difference) <= 0.1 + 1e-12)


def test_a_new_row_replaces_the_old_one_and_compares_what_depends_on_it() -> None:
    ledger = ledger_of(*PARENTS)
    for name in PARENTS:
        ledger = compared_again(ledger, name)
    changed = compared_again(with_row(ledger, row("00", "0000000000")), "00")
    assert [step.name for step in changed.steps] == list(PARENTS)
    differences = {
        step.name: [change.difference for change in step.cells[0].against.values()] for step in changed.steps
    }
    assert differences["00"] == [-0.6, -0.6]  # its parent is the base
    assert differences["01"] == pytest.approx([0.4, -0.2])
    for name in ("base", "merge", "02"):
        assert changed.step(name) == ledger.step(name)


def test_only_the_same_items_are_compared() -> None:
    other = row("00").model_copy(update={"cells": (exam_cell("1" * 9),)})
    compared_row = compared(other, ledger_of("base"))
    assert compared_row.cells[0].against == {}


def test_cells_replace_those_of_the_same_measure_only() -> None:
    old = ledger_step("00", "base", exam_cell("11"), exam_cell("10", "exam_options"))
    new = with_cells(old, [exam_cell("01"), exam_cell("00", "dictionary_exam_letters")])
    assert {cell.measure: cell.correct for cell in new.cells} == {
        "exam_letters": "01",
        "exam_options": "10",
        "dictionary_exam_letters": "00",
    }
    assert (new.name, new.parent, new.model) == (old.name, old.parent, old.model)


def job_of(*measures: str, version: str = "1", items: str = HASH) -> Job:
    return Job(measures, version, items, lambda subject: [])


def test_a_job_is_done_where_every_cell_has_its_items_and_version() -> None:
    two = ledger_step("00", "base", exam_cell("11"), exam_cell("10", "exam_options"))
    assert job_of("exam_letters", "exam_options").is_scored_in(two)
    assert not job_of("exam_letters", "form_exam").is_scored_in(two)
    assert not job_of("exam_letters", version="2").is_scored_in(two)
    other = two.model_copy(update={"cells": tuple(c.model_copy(update={"prompt_version": 2}) for c in two.cells)})
    assert not job_of("exam_letters", "exam_options").is_scored_in(other)
    assert not job_of("exam_options", items="cd" * 32).is_scored_in(two)
    stale = two.model_copy(update={"cells": (two.cells[0], two.cells[1].model_copy(update={"data_sha256": "cd" * 32}))})
    assert not job_of("exam_letters", "exam_options").is_scored_in(stale)


QUESTIONS = [ExamQuestion(f"q{i}", "doctor", f"{i}?", ("a", "b", "c", "d", "e"), i) for i in range(4)]


def exam_job(data: LedgerData, measure: str) -> Job:
    return next(job for job in jobs(data, intruder_layers=0) if measure in job.measures)


def test_a_validation_of_the_same_questions_is_copied() -> None:
    chosen = {"letters": "ABAA", "options": "ABCA"}
    validation = summarize_validation(QUESTIONS, chosen, "dev", 1.0)
    job = exam_job(LedgerData(exam=QUESTIONS), "exam_letters")
    cells = {cell.measure: cell for cell in job.reuse(Stored(validation=validation)) or []}
    assert {name: cell.correct for name, cell in cells.items()} == {"exam_letters": "1100", "exam_options": "1110"}
    assert cells["exam_letters"].detail["chosen_letters"] == {"A": 3, "B": 1, "C": 0, "D": 0, "E": 0}
    assert cells["exam_letters"].detail["right_letters"] == {"A": 1, "B": 1, "C": 1, "D": 1, "E": 0}
    assert all(cell.data_sha256 == job.data_sha256 == validation.data_sha256 for cell in cells.values())


@pytest.mark.parametrize("why", ["nothing", "other questions", "another version", "another exam"])
def test_another_validation_is_not(why: str) -> None:
    questions = QUESTIONS[:3] if why == "other questions" else QUESTIONS
    n = len(questions)
    validation = summarize_validation(questions, {"letters": "ABAA"[:n], "options": "ABCA"[:n]}, "dev", 1.0)
    if why == "another version":
        protocols: dict[str, Any] = dict(validation.protocols)
        protocols["options"] = protocols["options"].model_copy(update={"protocol_version": "0"})
        validation = validation.model_copy(update={"protocols": protocols})
    stored = Stored() if why == "nothing" else Stored(validation=validation)
    another = why == "another exam"
    data = LedgerData(dictionary_exam=QUESTIONS) if another else LedgerData(exam=QUESTIONS)
    assert exam_job(data, "dictionary_exam_letters" if another else "exam_letters").reuse(stored) is None


def test_models_held_in_another_type_are_not_the_same() -> None:
    model = row("00").model
    assert same_holding(model, model.model_copy(update={"adapter_sha256": "cd" * 32, "base_sha256": "ef" * 32}))
    assert not same_holding(model, model.model_copy(update={"dtype": "float32"}))
    assert not same_holding(model, model.model_copy(update={"quantization": "nf4"}))
