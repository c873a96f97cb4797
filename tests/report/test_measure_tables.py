"""Tables of the ledger, of ablations and comparisons: a difference has its interval, its test and its items."""

import re
from pathlib import Path

from rich.table import Table

from artifact_making import HASH, ablation, eval_result, exam_cell, ledger_step
from lorachain.artifacts import Ledger, Noise
from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.chain.ledger import compared_again, with_row
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.ledger_statistics import perplexity_cell
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.evaluation.protocols.options import Options
from lorachain.evaluation.results import summarize
from lorachain.records import ExamQuestion
from lorachain.report.ablation_table import ablation_table
from lorachain.report.ledger_table import change_table, has_changes, ledger_table, missing_steps
from lorachain.report.tables import accuracy_text, comparison_tables, result_table


def rows_of(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)]


def measured_ledger() -> Ledger:
    tokens = [10] * 12
    before = perplexity_cell("korean", "1", HASH, [20.0 + i for i in range(12)], tokens)
    after = perplexity_cell("korean", "1", HASH, [25.0 + i for i in range(12)], tokens)
    noise = {"exam_letters": Noise(version="1", data_sha256=HASH, value=0.01, n=4)}
    ledger = Ledger(model="tiny", settings={}, noise=noise)
    for row in (
        ledger_step("base", None, exam_cell("1" * 20 + "0" * 20), before),
        ledger_step("00", "base", exam_cell("0" * 15 + "1" * 25), before),
        ledger_step("01", "00", exam_cell("0" * 40), after),
    ):
        ledger = compared_again(with_row(ledger, row), row.name)
    return ledger


def test_every_change_has_its_interval_its_p_and_its_items() -> None:
    ledger = measured_ledger()
    rows = rows_of(change_table(ledger))
    assert [row[:3] for row in rows] == [
        ["01", "exam dev, letters", "00"],
        ["01", "exam dev, letters", "base"],
        ["01", "perplexity, general Korean", "00"],
        ["01", "perplexity, general Korean", "base"],
    ]
    for row, points, flips in zip(rows[:2], ("-62.5", "-50.0"), ("25, 0 of 40", "20, 0 of 40"), strict=True):
        assert re.fullmatch(rf"{points} points \[-\d+\.\d, -\d+\.\d\]", row[3])
        assert row[5] == flips
    for row in rows[2:]:
        assert re.fullmatch(r"\+\d+\.\d\d \[\+\d+\.\d\d, \+\d+\.\d\d\], n=12", row[3])
    assert all(0 < float(row[4]) < 0.05 for row in rows)
    assert has_changes(ledger)
    assert not has_changes(Ledger(model="tiny", settings={}, steps=ledger.steps[:1]))


def test_the_matrix_marks_what_is_better_and_worse_than_the_parent() -> None:
    ledger = measured_ledger()
    rows = {row[0]: row[1:] for row in rows_of(ledger_table(ledger, ["base", "00", "01", "merge"], {}))}
    assert rows["exam dev, letters"] == ["50.0", "62.5", "0.0 ▼", "–", "1.0"]
    perplexities = rows["perplexity, general Korean"]
    assert [text[-1:] == "▼" for text in perplexities[:3]] == [False, False, True]
    assert perplexities[3:] == ["–", "–"]
    assert missing_steps(ledger, ["base", "00", "01", "merge"]) == ["merge"]


def test_an_ablation_has_values_with_intervals_and_items() -> None:
    rows = rows_of(ablation_table(ablation()))
    assert rows == [
        [
            "exam, letters\nn = 4 questions",
            "only-02",
            "50.0 % [20.0, 80.0]",
            "50.0",
            "-25.0 points [-50.0, +10.0], not significantly different (p = 0.500)",
        ]
    ]


ACCURACY = re.compile(r"\d+(?:\.\d+)? %")


def test_every_accuracy_of_an_evaluation_has_its_interval_and_n(tmp_path: Path) -> None:
    questions = [ExamQuestion(f"q{i}", ("a", "b")[i % 2], "?", ("1", "2", "3", "4", "55"), i % 5) for i in range(9)]
    results = []
    for name, chosen in (("a", 0), ("b", 1)):
        answers = [
            QuestionResult(q.id, q.exam, q.subject, q.answer, chosen, detail={"sum": 0, "per_character": 0})
            for q in questions
        ]
        model = ScoredModelIdentity(name=name, base_sha256=HASH, adapter_sha256=None, quantization="none")
        out = tmp_path / f"{name}.json"
        results.append(
            summarize(questions, answers, Options(), out=out, model=model, split="dev", selection={}, seconds=1.0)
        )
    comparison = compare_results(tmp_path / "a.json", tmp_path / "b.json")
    tables = [result_table(results[0], "result"), *comparison_tables(comparison, with_flips=True)]
    accuracies = 0
    for table in tables:
        for cell in (cell for row in rows_of(table) for cell in row):
            shown = ACCURACY.findall(cell)
            accuracies += len(shown)
            assert len(re.findall(r"\d+\.\d % \[\d+\.\d, \d+\.\d\] n=\d+", cell)) == len(shown), cell
    assert accuracies == 1 + 2 + 2 + 2  # all, two subjects, two baselines; A and B
    (row,) = rows_of(tables[1])
    assert re.fullmatch(r"[+-]\d+\.\d points \[[+-]\d+\.\d, [+-]\d+\.\d\]", row[2])
    assert accuracy_text(results[0].score) == "22.2 % [6.3, 54.7] n=9"
    assert [cell[0] for cell in rows_of(tables[2])] == [
        f" {flip.id}" for flip in (*comparison.gained, *comparison.lost)
    ]


def test_nothing_measured_is_a_dash() -> None:
    assert accuracy_text(None) == "–"


def test_the_caption_of_a_result_has_its_time_on_a_line_of_its_own() -> None:
    caption = result_table(eval_result({"doctor": (3, 8)}), "a").caption
    assert isinstance(caption, str)
    first, second = caption.split("\n")
    assert "\\n" not in caption
    assert re.match(r"\d+ s, [\d,.]+ questions/s, ", second)
    assert "questions/s" not in first
