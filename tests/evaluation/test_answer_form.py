"""The forms of answers: what each stage trains has its own, and another stage's does not."""

import pytest

from lorachain.evaluation.answer_form import has_dictionary_form, has_exam_form, has_plain_text_form, is_korean
from lorachain.prompts import answer_text
from lorachain.records import ExamQuestion

QUESTION = ExamQuestion("1", "doctor", "무엇인가?", ("심방세동", "심실세동", "조동", "빈맥", "E. coli 감염"), 2)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(" 심방세동", "심방조동"), (" 비타민 C 결핍증", "괴혈병"), (" heart", "liver"), (" CT", "MRI")],
)
def test_a_dictionary_answer(answer: str, expected: str) -> None:
    """Right or wrong."""
    assert has_dictionary_form(answer, expected, ended=True)
    assert not has_dictionary_form(answer, expected, ended=False)


@pytest.mark.parametrize(
    "answer",
    [
        " 심방증 (C)",  # what the chain answered after stage 02
        " C. 심방증",
        " (C) 심방증",
        " 정답： 심방증",
        " 풀이: 심방이 떨린다",
        " atrial fibrillation",
        " 심방\n심실",
        " ",
        "",
        " 심방\ufffd",
        " 123",
    ],
)
def test_what_is_not_a_dictionary_answer(answer: str) -> None:
    assert not has_dictionary_form(answer, "심방세동", ended=True)


def test_a_mark_that_belongs_to_the_name_is_allowed() -> None:
    assert has_dictionary_form(" E. coli", "E. coli", ended=True)
    assert not has_dictionary_form(" E. coli", "infection", ended=True)


@pytest.mark.parametrize("style", ["letters", "options"])
def test_what_stage_02_trains_has_its_form(style: str) -> None:
    for answer in range(5):
        question = ExamQuestion("1", "doctor", "무엇인가?", QUESTION.options, answer)
        text = answer_text(question, style)  # type: ignore[arg-type]
        assert has_exam_form(text, QUESTION, ended=True), text
        assert not has_exam_form(text, QUESTION, ended=False)


@pytest.mark.parametrize(
    "answer", ["심방세동", "A", "A. 심실세동", "심실세동 (A)", "A. 심방세동이다", "심방세동 (A) (B)", ""]
)
def test_what_is_not_an_exam_answer(answer: str) -> None:
    assert not has_exam_form(answer, QUESTION, ended=True)


def test_running_text() -> None:
    assert has_plain_text_form(" 환자는 가슴이 아프다고 하였다.")
    assert has_plain_text_form(" 환자는 가슴이 아프다고\ufffd")  # cut within a character
    for other in ("", " The patient", " 심방\ufffd이 떨린다", " 정답： A", " 12 34"):
        assert not has_plain_text_form(other), other


def test_korean() -> None:
    assert is_korean("가나 a")
    assert not is_korean("가 ab")
    assert not is_korean("1, 2")
