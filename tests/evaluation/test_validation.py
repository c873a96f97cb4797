"""The validation of an epoch: scores of both protocols, comparisons with earlier ones, and their form on disk."""

from dataclasses import replace

import pytest

from conftest import make_text_model, make_tokenizer
from lorachain.artifacts import EpochScore, ValidationHistory, ValidationResult
from lorachain.errors import DataError
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.scoring import score_questions
from lorachain.evaluation.statistics import wilson
from lorachain.evaluation.validation import validate
from lorachain.evaluation.validation_result import compare_validations, summarize_validation
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

TEXTS = ("열", "기침", "두통", "구토", "발진")
QUESTIONS = [
    ExamQuestion(f"q{i}", ("nurse", "doctor")[i % 2], f"질문 {i}?", TEXTS, i % 5, exam=("kormedmcqa", "probe")[i // 4])
    for i in range(6)
]
TEN = [ExamQuestion(str(i), "x" if i < 4 else "y", f"질문 {i}?", TEXTS, i % 5, exam="a") for i in range(10)]
"""Their gold letters are ABCDEABCDE."""


def result_of(letters: str, options: str, questions: list[ExamQuestion] = TEN, split: str = "dev") -> ValidationResult:
    return summarize_validation(questions, {"letters": letters, "options": options}, split, 1.0)


@pytest.fixture
def result() -> ValidationResult:
    return result_of("AAAAAAAAAA", "ABCDEABCDA")


def test_validate_agrees_with_the_scores() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    progress: list[int] = []
    result = validate(model, encoder, QUESTIONS, split="dev", on_progress=progress.append)
    scores = score_questions(model, encoder, QUESTIONS)
    answers = result.questions
    assert answers.chosen["letters"] == "".join("ABCDE"[score.chosen_letter] for score in scores)
    assert answers.chosen["options"] == "".join("ABCDE"[score.chosen_option] for score in scores)
    assert answers.gold == "ABCDEA"
    assert progress[-1] == 6
    assert set(result.protocols) == {"letters", "options"}
    assert result.data_sha256 == question_set_hash(QUESTIONS)
    for name, score in result.protocols.items():
        assert (score.protocol, score.protocol_version, score.split, score.n) == (name, "1", "dev", 6)
        assert score.correct == sum(a == b for a, b in zip(answers.chosen[name], answers.gold, strict=True))
        assert score.wilson95 == wilson(score.correct, 6)
        assert score.accuracy == score.correct / 6
        assert sum(score.chosen_letters.values()) == 6
        assert sum(group.n for group in score.per_subject.values()) == 6
        assert {exam: group.n for exam, group in score.per_exam.items()} == {"kormedmcqa": 4, "probe": 2}
        assert "chance" in score.summary
        assert score.headline.model_dump() == {key: getattr(score, key) for key in type(score.headline).model_fields}


def test_a_result_is_unchanged_by_json(result: ValidationResult) -> None:
    score = EpochScore(stage="00", epoch=1, step=7, at="2026-01-01", result=result, compared_with={})
    history = ValidationHistory(results=(score,))
    assert ValidationHistory.parse(history.as_dict()) == history


def test_known_counts(result: ValidationResult) -> None:
    letters, options = (result.protocols[name] for name in ("letters", "options"))
    assert (letters.correct, options.correct) == (2, 9)
    assert letters.chosen_letters == {"A": 10, "B": 0, "C": 0, "D": 0, "E": 0}
    assert options.per_subject["x"].correct == 4
    assert options.per_subject["y"].correct == 5
    assert letters.summary.startswith("not significantly different from chance")
    assert options.summary.startswith("above chance")
    assert options.accuracy == 0.9
    assert sum(result.correct("options")) == 9


def test_comparison_with_the_start(result: ValidationResult) -> None:
    later = result_of("ABCDEABCDE", "ABCDEABCDE")
    comparisons = compare_validations(later, result)
    letters, options = comparisons["letters"], comparisons["options"]
    assert (letters.gained, letters.lost, letters.n, letters.split) == (8, 0, 10, "dev")
    assert (letters.protocol, letters.protocol_version) == ("letters", "1")
    assert letters.mcnemar_p == pytest.approx(2 * 0.5**8)
    assert letters.summary.startswith("better than the start")
    assert options.summary == "not significantly different from the start (p = 1.000)"
    assert later.better_than(result, "letters")
    assert not result.better_than(result, "letters")


def test_results_of_other_questions_are_not_compared(result: ValidationResult) -> None:
    others = [
        result_of("AAAAAAAAAA", "ABCDEABCDA", split="test"),
        result_of("AAAAAAAAAA", "ABCDEABCDA", [replace(TEN[0], question="다른 질문"), *TEN[1:]]),
    ]
    for other in others:
        with pytest.raises(DataError, match="differ in their questions"):
            compare_validations(other, result)
        with pytest.raises(DataError, match="differ in their questions"):
            other.better_than(result, "letters")
    reworded = result.model_copy(update={"prompt_version": result.prompt_version + 1})
    assert result.asks_the_same(result)
    assert not reworded.asks_the_same(result)
    with pytest.raises(DataError, match="differ in their prompts: versions 1 and 2"):
        compare_validations(reworded, result)
    with pytest.raises(DataError, match="no protocol 'cloze', only: letters, options"):
        result.better_than(result, "cloze")


def test_bad_question_sets_are_refused() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    with pytest.raises(DataError, match="selection is empty"):
        validate(model, encoder, [])
    with pytest.raises(DataError, match="'q0' occurs twice"):
        validate(model, encoder, [QUESTIONS[0], QUESTIONS[0]])


def test_the_hash_depends_on_every_field_that_is_scored() -> None:
    hashes = {question_set_hash(QUESTIONS)}
    first = QUESTIONS[0]
    for other in (
        replace(first, answer=3),
        replace(first, question="질문"),
        replace(first, id="z"),
        replace(first, exam="probe"),
        replace(first, subject="doctor"),
        replace(first, options=("기침", "열", "두통", "구토", "발진")),
        replace(first, options=(*first.options[:4], "오한")),
    ):
        hashes.add(question_set_hash([other, *QUESTIONS[1:]]))
    hashes |= {question_set_hash(QUESTIONS[:-1]), question_set_hash(QUESTIONS[::-1])}
    assert len(hashes) == 10
    assert question_set_hash([replace(first, reasoning="이유"), *QUESTIONS[1:]]) in hashes  # not part of the prompt
