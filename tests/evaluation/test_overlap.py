"""The share of questions that a dictionary's wording answers."""

import pytest

from lorachain.evaluation.overlap import overlap_baseline
from lorachain.records import ExamQuestion, Term

ENTRIES = [
    Term("위염", "위 점막에 염증이 생긴 상태이다."),
    Term("간염", "간에 염증이 생긴 상태이다.", "hepatitis"),
    Term("담석증", "담낭이나 담관에 돌이 생긴 상태이다."),
]


def question(stem: str, answer: int, *options: str) -> ExamQuestion:
    a, b, c, d, e = (*options, "가", "나", "다", "라", "마")[:5]
    return ExamQuestion("x-1-1-1", "x", stem, (a, b, c, d, e), answer)


def test_the_option_whose_definition_the_question_repeats() -> None:
    repeated = question("담낭이나 담관에 돌이 생긴 병은?", 2, "위염", "간염", "담석증")
    in_english = question("간에 염증이 생긴 상태는?", 0, "Hepatitis", "위염")
    misled = question("위 점막에 염증이 생긴 상태와 구별할 병은?", 1, "위염", "담석증")
    assert overlap_baseline([repeated, in_english], ENTRIES).accuracy == 1
    score = overlap_baseline([repeated, in_english, misled], ENTRIES)
    assert (score.correct, score.n) == (2, 3)


def test_where_nothing_is_shared_it_guesses() -> None:
    unknown = [question("심박수를 재는 부위는?", number % 5, "요골동맥") for number in range(10)]
    assert overlap_baseline(unknown, ENTRIES).accuracy == pytest.approx(0.2)
