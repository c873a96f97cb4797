"""Permuting the options permutes the letter in the answer and in the reasoning (design, section 3, line 8)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain.prompts import (
    ANSWER_CUE,
    answer_prompt,
    answer_text,
    exam_examples,
    options_depend_on_order,
    permuted,
    question_block,
    remap_letters,
    rotations,
    shuffled,
)
from lorachain.records import LETTERS, ExamQuestion

OPTIONS = ("간염", "위염", "신염", "폐렴", "뇌염")
NEXT = dict(zip(LETTERS, "BCDEA", strict=True))
"""Each letter to the one after it: a letter that is remapped shows."""


def make_question(reasoning: str | None = None, options: tuple[str, ...] = OPTIONS, answer: int = 1) -> ExamQuestion:
    a, b, c, d, e = options
    return ExamQuestion("q", "doctor", "옳은 것은?", (a, b, c, d, e), answer, reasoning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("정답은 D", "정답은 E"),
        ("정답은 D이다.", "정답은 E이다."),
        ("정답은 D입니다", "정답은 E입니다"),
        ("따라서 정답은 (C)입니다.", "따라서 정답은 (D)입니다."),
        ("(A)와 (E)는 틀리다", "(B)와 (A)는 틀리다"),
        ("E번은 아니다", "A번은 아니다"),
        ("보기 B와 선택지 C", "보기 C와 선택지 D"),
        ("정답: B", "정답: C"),
        (f"{ANSWER_CUE}A. 간염", f"{ANSWER_CUE}B. 간염"),
        ("A. 간염\nB) 위염", "B. 간염\nC) 위염"),
        ("답은 A 또는 B번", "답은 B 또는 C번"),
    ],
)
def test_references_to_an_option_are_remapped(text: str, expected: str) -> None:
    assert remap_letters(text, NEXT) == expected


@pytest.mark.parametrize(
    "text",
    [
        "비타민 B 결핍",
        "비타민 B12",
        "비타민 D가 모자라다",
        "B형간염",
        "만성 B형간염과 C형간염",
        "정답은 B형간염이다",
        "정답은 A군 사슬알균이다",
        "정답은 DNA 검사이다",
        "정답은 D-dimer 검사이다",
        "답은 CT 촬영이다",
        "보기 EKG처럼",
        "HLA-B27",
        "면역글로불린 A",
        "혈우병A는 제8인자",
        "22번 염색체",
        "ABC번",
        "(CT)와 (AB)",
    ],
)
def test_letters_that_name_other_things_stay(text: str) -> None:
    assert remap_letters(text, NEXT) == text


@given(st.permutations(range(5)), st.integers(0, 4))
def test_option_permutation_permutes_the_letter_in_answer_and_reasoning(order: list[int], answer: int) -> None:
    letter = LETTERS[answer]
    question = make_question(f"비타민 B와 상관없이 정답은 {letter}이고 ({letter})뿐이다. {letter}번.", answer=answer)
    moved = permuted(question, order)
    now = LETTERS[order.index(answer)]
    assert moved.answer_letter == now
    assert moved.answer_text == question.answer_text
    assert moved.reasoning == f"비타민 B와 상관없이 정답은 {now}이고 ({now})뿐이다. {now}번."
    assert sorted(moved.options) == sorted(question.options)
    assert f"{now}. {question.answer_text}" in question_block(moved)
    assert exam_examples(moved, "letters")[0].completion.endswith(f"{ANSWER_CUE} {now}. {question.answer_text}")
    assert answer_text(moved, "options") == f" {question.answer_text} ({now})"


@given(st.permutations(range(5)))
def test_a_permutation_and_its_inverse_are_the_same_question(order: list[int]) -> None:
    question = make_question("정답은 (B), 보기 C와 D번은 아니고 B형간염도 아니다")
    inverse = [order.index(i) for i in range(5)]
    assert permuted(permuted(question, order), inverse) == question


def test_shuffling_is_uniform_enough_to_move_every_answer_everywhere() -> None:
    rng = random.Random(0)
    found = [shuffled(make_question(), rng).answer for _ in range(500)]
    assert all(60 < found.count(place) < 140 for place in range(5))


@pytest.mark.parametrize(
    "options",
    [
        ("간염", "위염", "신염", "폐렴", "모두 옳다"),
        ("간염", "위염", "신염", "폐렴", "위의 모두"),
        ("①, ③", "②, ④", "①", "④", "③"),
        ("A와 B", "B와 C", "간염", "위염", "신염"),
        ("ㄱ, ㄴ", "ㄴ, ㄷ", "ㄱ, ㄷ", "ㄹ", "ㄱ"),
        ("간염", "위염", "신염", "폐렴", "해당 사항 없음"),
    ],
)
def test_questions_whose_options_refer_to_each_other_stay_in_order(options: tuple[str, ...]) -> None:
    question = make_question(options=options)
    assert options_depend_on_order(question)
    assert all(shuffled(question, random.Random(seed)) is question for seed in range(5))


@pytest.mark.parametrize("reasoning", ["정답은 3번이다", "따라서 답은 2", "보기 ③은 틀리다", "정답: 4"])
def test_a_question_whose_reasoning_names_options_by_number_stays_in_order(reasoning: str) -> None:
    assert options_depend_on_order(make_question(reasoning))
    assert not options_depend_on_order(make_question("22번 염색체의 이상이므로 정답은 B이다"))


def test_rotations_put_the_answer_once_at_every_letter() -> None:
    question = make_question("정답은 B")
    turned = list(rotations(question))
    assert turned[0] == question
    assert sorted(q.answer_letter for q in turned) == list(LETTERS)
    assert all(q.reasoning == f"정답은 {q.answer_letter}" for q in turned)


def test_direct_and_reasoned_answers_are_told_apart_by_the_prompt() -> None:
    (only,) = exam_examples(make_question(), "letters")
    reasoned, direct = exam_examples(make_question("까닭."), "letters")
    assert direct == only
    assert direct.prompt == answer_prompt(make_question())
    assert reasoned.prompt is not None
    assert reasoned.prompt.user == answer_prompt(make_question()).user
    assert reasoned.prompt.cue != answer_prompt(make_question()).cue
    assert reasoned.completion == f" 까닭.\n{ANSWER_CUE} B. 위염"
    assert direct.completion == " B. 위염"
