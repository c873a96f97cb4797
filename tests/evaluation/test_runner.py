"""Evaluations on disk: whole, resumable, comparable only with their like."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import make_text_model, make_tokenizer
from lorachain.errors import DataError
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.protocols.options import Options
from lorachain.evaluation.protocols.registry import make_protocol
from lorachain.evaluation.results import baselines, read_results, rows_path
from lorachain.evaluation.runner import run_evaluation
from lorachain.evaluation.statistics import macro_interval, wilson
from lorachain.records import ExamQuestion
from lorachain.report.tables import comparison_tables
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "마른 기침", "두통이 심함", "구토", "발진")
QUESTIONS = [
    ExamQuestion(f"q{i}", ("doctor", "nurse")[i % 2], f"증상 {i}?", TEXTS[i % 5 :] + TEXTS[: i % 5], i % 5, exam="x")  # type: ignore[arg-type]
    for i in range(12)
]


def evaluate(out: Path, protocol: Any = None, questions: list[ExamQuestion] = QUESTIONS, **changes: Any) -> Any:
    settings = {"model_identity": {"name": "tiny"}, "split": "dev", **changes}
    model = make_text_model(settings.pop("model_seed", 0))
    return run_evaluation(
        model, TokenEncoder(make_tokenizer()), questions, protocol or make_protocol("letters"), out=out, **settings
    )


def test_a_result_says_everything(tmp_path: Path) -> None:
    heard: list[tuple[int, int, int]] = []
    out = tmp_path / "sub" / "results.json"
    result = evaluate(out, on_progress=lambda *state: heard.append(state), selection={"limit": 12})
    stored, rows = read_results(out)
    assert stored == result
    assert stored["schema_version"] == 1
    assert (stored["protocol"], stored["protocol_version"], stored["split"]) == ("letters", "1", "dev")
    assert stored["settings"] == {"shots": 0, "rotations": 1}
    correct = sum(row["correct"] for row in rows)
    assert stored["score"]["n"] == len(rows) == 12
    assert stored["score"]["correct"] == correct
    assert stored["score"]["wilson95"] == list(wilson(correct, 12))
    assert {name: part["n"] for name, part in stored["per_subject"].items()} == {"doctor": 6, "nurse": 6}
    macro = sum(part["accuracy"] for part in stored["per_subject"].values()) / 2
    assert stored["macro"]["accuracy"] == pytest.approx(macro)
    assert stored["data"]["selection"] == {"limit": 12}
    assert stored["data"]["exams"] == ["x"]
    assert "notice" not in stored
    assert [row["id"] for row in rows] == [question.id for question in QUESTIONS]
    assert all(len(row["logprobs"]) == 5 and row["prompt_tokens"] > 10 for row in rows)
    assert heard[-1] == (12, 12, correct)
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.json", "results.parquet"]


def test_the_test_split_says_so(tmp_path: Path) -> None:
    assert "test split" in evaluate(tmp_path / "r.json", split="test")["notice"]


def small_batches() -> Options:
    return Options(batch_questions=4)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("damage", [None, '{"seconds": 1.0, "ro'])
def test_an_interrupted_evaluation_ends_with_the_same_result(tmp_path: Path, damage: str | None) -> None:
    whole = evaluate(tmp_path / "whole.json", small_batches())

    def kill(done: int, total: int, correct: int) -> None:
        if done >= 8:
            raise KilledError

    out = tmp_path / "cut.json"
    with pytest.raises(KilledError):
        evaluate(out, small_batches(), on_progress=kill)
    assert not out.exists()
    journal = out.with_name("cut.json.unfinished.jsonl")
    if damage:
        journal.write_text(journal.read_text(encoding="utf-8") + damage, encoding="utf-8")
    asked: list[int] = []
    protocol = small_batches()
    real = Options.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "score", lambda self, m, e, q: asked.append(len(q)) or real(self, m, e, q))
        resumed = evaluate(out, protocol)
    assert sum(asked) < 12  # what was done is not done again
    assert not journal.exists()
    for changing in ("seconds", "rows"):
        del whole[changing], resumed[changing]
    assert resumed == whole
    assert read_results(out)[1] == read_results(tmp_path / "whole.json")[1]


def test_another_unfinished_evaluation_is_not_continued(tmp_path: Path) -> None:
    def kill(*_: int) -> None:
        raise KilledError

    out = tmp_path / "r.json"
    with pytest.raises(KilledError):
        evaluate(out, small_batches(), on_progress=kill)
    with pytest.raises(DataError, match="unfinished evaluation with another model"):
        evaluate(out, small_batches(), model_identity={"name": "other"})
    with pytest.raises(DataError, match="another protocol"):
        evaluate(out, make_protocol("letters"))


@pytest.mark.parametrize(("questions", "message"), [([], "empty"), ([QUESTIONS[0]] * 2, "'q0' occurs twice")])
def test_bad_selections_are_refused(tmp_path: Path, questions: list[ExamQuestion], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(tmp_path / "r.json", questions=questions)


def test_comparison_counts_the_flips(tmp_path: Path) -> None:
    a = evaluate(tmp_path / "a.json")
    b = evaluate(tmp_path / "b.json", model_seed=5, model_identity={"name": "trained"})
    found = compare_results(tmp_path / "a.json", tmp_path / "b.json")
    rows = [read_results(tmp_path / name)[1] for name in ("a.json", "b.json")]
    gained = {y["id"] for x, y in zip(*rows, strict=True) if y["correct"] and not x["correct"]}
    assert {flip["id"] for flip in found["gained"]} == gained
    assert len(found["gained"]) - len(found["lost"]) == b["score"]["correct"] - a["score"]["correct"]
    assert found["difference"] == pytest.approx(b["score"]["accuracy"] - a["score"]["accuracy"])
    assert found["bootstrap95"][0] <= found["difference"] <= found["bootstrap95"][1]
    assert found["n"] == 12
    assert found["gained"] or found["lost"]
    _, flips = comparison_tables(found, with_flips=True)
    assert flips.row_count == len(found["gained"]) + len(found["lost"])
    assert "tiny" in found["words"]
    same = compare_results(tmp_path / "a.json", tmp_path / "a.json")
    assert same["mcnemar_p"] == 1.0
    assert same["gained"] == same["lost"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "options"}, "protocol: letters and options"),
        ({"protocol_version": "2"}, "protocol version"),
        ({"settings": {"shots": 5}}, "settings"),
        ({"split": "test"}, "split: dev and test"),
        ({"data": {"n": 12, "sha256": "0" * 64}}, "questions: 12 with hash"),
        ({"schema_version": 7}, "schema version 7; this lorachain reads 1"),
    ],
)
def test_unlike_results_are_not_compared(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    result = evaluate(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps({**result, **change}), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        compare_results(tmp_path / "a.json", tmp_path / "b.json")


def test_files_that_are_no_result_are_refused(tmp_path: Path) -> None:
    evaluate(tmp_path / "a.json")
    rows_path(tmp_path / "a.json").write_bytes(b"other")
    with pytest.raises(DataError, match="is not the file"):
        read_results(tmp_path / "a.json")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="schema version None"):
        read_results(tmp_path / "list.json")
    with pytest.raises(DataError, match="cannot be read as an exam result"):
        read_results(tmp_path / "absent.json")


def test_baselines() -> None:
    questions = [
        ExamQuestion(f"q{i}", "s", "?", ("a", "b", "longest", "d", "e"), answer)
        for i, answer in enumerate((2, 2, 1, 0))
    ]
    found = baselines(questions)
    assert found["always_majority_letter"]["letter"] == "C"
    assert found["always_majority_letter"]["correct"] == 2
    assert found["always_longest_option"]["correct"] == 2
    assert found["always_longest_option"]["n"] == 4


def test_macro_interval_resamples_within_subjects() -> None:
    interval = macro_interval([[True] * 30 + [False] * 70, [True] * 8 + [False] * 2])
    assert interval is not None
    low, high = interval
    assert low < 0.55 < high
    # sd of the mean of the two accuracies: half the root of 0.3 * 0.7 / 100 + 0.8 * 0.2 / 10
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * (0.0021 + 0.016) ** 0.5, rel=0.12)
    assert macro_interval([[True], [True, False]]) is None
