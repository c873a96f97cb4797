import json
from dataclasses import replace

import pytest

from conftest import make_text_model, make_tokenizer
from lorachain.errors import DataError
from lorachain.evaluation.scoring import score_questions
from lorachain.evaluation.statistics import wilson
from lorachain.evaluation.validation import ValidationResult, question_set_hash, validate
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "기침", "두통", "구토", "발진")
QUESTIONS = [
    ExamQuestion(f"q{i}", ("nurse", "doctor")[i % 2], f"질문 {i}?", TEXTS, i % 5, exam=("kormedmcqa", "probe")[i // 4])
    for i in range(6)
]


@pytest.fixture
def result() -> ValidationResult:
    return ValidationResult(
        split="dev", exams=("a",) * 10, subjects=("x",) * 4 + ("y",) * 6, ids=tuple(map(str, range(10))),
        gold="ABCDEABCDE", chosen={"letters": "AAAAAAAAAA", "options": "ABCDEABCDA"}, data_sha256="ab", seconds=1.0,
    )  # fmt: skip


def test_validate_says_what_the_scores_say() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    heard: list[int] = []
    result = validate(model, encoder, QUESTIONS, split="dev", on_progress=heard.append)
    scores = score_questions(model, encoder, QUESTIONS)
    assert result.chosen["letters"] == "".join("ABCDE"[score.chosen_letter] for score in scores)
    assert result.chosen["options"] == "".join("ABCDE"[score.chosen_option] for score in scores)
    assert result.gold == "ABCDEA"
    assert heard[-1] == 6
    stored = result.as_dict()
    assert set(stored["protocols"]) == {"letters", "options"}
    for name, part in stored["protocols"].items():
        assert (part["protocol"], part["version"], part["split"], part["n"]) == (name, "1", "dev", 6)
        assert part["wilson95"] == list(wilson(part["correct"], 6))
        assert part["accuracy"] == part["correct"] / 6
        assert sum(part["chosen_letters"].values()) == 6
        assert sum(group["n"] for group in part["per_subject"].values()) == 6
        assert {name: group["n"] for name, group in part["per_exam"].items()} == {"kormedmcqa": 4, "probe": 2}
        assert "chance" in part["words"]


def test_goes_through_json_unchanged(result: ValidationResult) -> None:
    assert ValidationResult.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_known_counts(result: ValidationResult) -> None:
    letters, options = (result.as_dict()["protocols"][name] for name in ("letters", "options"))
    assert (letters["correct"], options["correct"]) == (2, 9)
    assert letters["chosen_letters"] == {"A": 10, "B": 0, "C": 0, "D": 0, "E": 0}
    assert options["per_subject"]["x"]["correct"] == 4
    assert options["per_subject"]["y"]["correct"] == 5
    assert letters["words"].startswith("not significantly different from chance")
    assert options["words"].startswith("above chance")
    assert result.accuracy("options") == 0.9


def test_comparison_with_the_start(result: ValidationResult) -> None:
    later = replace(result, chosen={"letters": "ABCDEABCDE", "options": "ABCDEABCDE"})
    found = later.compare_to(result)
    assert (found["letters"]["gained"], found["letters"]["lost"]) == (8, 0)
    assert found["letters"]["mcnemar_p"] == pytest.approx(2 * 0.5**8)
    assert found["letters"]["words"].startswith("better than the start")
    assert found["options"]["words"] == "not significantly different from the start (p = 1.000)"
    assert later.better_than(result, "letters")
    assert not result.better_than(result, "letters")


@pytest.mark.parametrize("change", [{"split": "test"}, {"data_sha256": "cd"}])
def test_other_questions_are_not_compared(result: ValidationResult, change: dict[str, str]) -> None:
    with pytest.raises(DataError, match="differ in their questions"):
        replace(result, **change).compare_to(result)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"questions": {}}])
def test_foreign_results_are_refused(result: ValidationResult, change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="validate again"):
        ValidationResult.from_dict({**result.as_dict(), **change})


def test_bad_question_sets_are_refused() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    with pytest.raises(DataError, match="selection is empty"):
        validate(model, encoder, [])
    with pytest.raises(DataError, match="'q0' occurs twice"):
        validate(model, encoder, [QUESTIONS[0], QUESTIONS[0]])


def test_hash_follows_every_field() -> None:
    hashes = {question_set_hash(QUESTIONS)}
    first = QUESTIONS[0]
    for other in (
        replace(first, answer=3),
        replace(first, question="질문"),
        replace(first, id="z"),
        replace(first, options=("기침", "열", "두통", "구토", "발진")),
    ):
        hashes.add(question_set_hash([other, *QUESTIONS[1:]]))
    assert len(hashes) == 5
    assert question_set_hash([replace(first, reasoning="이유"), *QUESTIONS[1:]]) in hashes  # not asked, not counted
