"""Permuting the options permutes the letter in the answer and in the reasoning (design, section 3, line 8)."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorachain.dictionary_forms import held_out_example, trained_examples
from lorachain.prompts import (
    ANSWER_CUE,
    PROMPT_VERSION,
    REASONING_INSTRUCTION,
    answer_prompt,
    answer_text,
    directions,
    exam_examples,
    instruction_examples,
    json_example,
    options_depend_on_order,
    permuted,
    plain_text_example,
    question_block,
    remap_letters,
    render,
    rotations,
    shuffled,
)
from lorachain.provenance import sha256_json
from lorachain.records import LETTERS, ExamQuestion, Instruction, PlainText, Term

OPTIONS = ("간염", "위염", "신염", "폐렴", "뇌염")
NEXT = dict(zip(LETTERS, "BCDEA", strict=True))
"""Each letter to the next one, so that a remapped letter differs."""


WORDINGS = {1: "293eb62e15b2e85d757aa0dce60a759a3b3818492d37f24c79aed3cc30ca097e"}
"""SHA-256 by `PROMPT_VERSION` of every wording: what is trained or scored changes only with the version."""


def test_a_change_of_the_wording_changes_the_version() -> None:
    entry = Term("용어", definition="정의", english="English")
    question = make_question("풀이")
    examples = [example for way in directions(entry) for example in trained_examples(entry, way)]
    examples += [held_out_example(entry, way, number) for way in directions(entry) for number in range(2)]
    examples += [*exam_examples(question, "letters"), *exam_examples(question, "options"), json_example(question)]
    examples += [plain_text_example(PlainText("글", "")), *instruction_examples(Instruction("질문", "답"), None)]
    written = [
        [example.form, render(example.prompt, None) if example.prompt else "", example.completion]
        for example in examples
    ]
    assert WORDINGS[PROMPT_VERSION] == sha256_json([*written, REASONING_INSTRUCTION])


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
    answers = [shuffled(make_question(), rng).answer for _ in range(500)]
    assert all(60 < answers.count(place) < 140 for place in range(5))


@pytest.mark.parametrize(
    "options",
    [
        ("간염", "위염", "신염", "폐렴", "모두 옳다"),
        ("간염", "위염", "신염", "폐렴", "위의 모두"),
        ("①, ③", "②, ④", "①", "④", "③"),
        ("A와 B", "B와 C", "간염", "위염", "신염"),
        ("ㄱ, ㄴ", "ㄴ, ㄷ", "ㄱ, ㄷ", "ㄹ", "ㄱ"),
        *(
            ("간염", "위염", "신염", "폐렴", last)
            for last in (
                *("해당 사항 없음", "해당없음", "해당 사항이 없다", "정답 없음", "정답이 없다", "답 없음"),
                *("옳은 것 없음", "모두", "모두 맞다", "모두 아니다", "위 보기 모두", "이상 모두", "전부", "다 맞다"),
                *("다 틀리다", "둘 다", "위 둘 다 아니다", "어느 것도 아니다", "기타", "그 외", "나머지"),
                *("상기 보기 중 둘", "위 항목 중 하나", "A 또는 B", "A와 B", "A 및 C", "A, B, C", "A/B", "A·B"),
                *("(A), (C)", "A와 B가 옳다", "A만", "B와 같다", "보기 A와 같다", "보기 중 A", "A and B", "B or D"),
                *("A & C", "A only", "①②", "①, ③", "② 및 ④", "(1), (3)", "1, 3", "1번과 3번", "(1)과 (2)"),
                *("가, 나", "(가), (나)", "ㄱ, ㄴ", "ㄱㄴㄷ", "㉠, ㉢", "All of the above", "none of the above"),
                *("None of these", "Both of the above", "all of them", "None."),
            )
        ),
    ],
)
def test_questions_whose_options_refer_to_each_other_keep_their_order(options: tuple[str, ...]) -> None:
    question = make_question(options=options)
    assert options_depend_on_order(question)
    assert all(shuffled(question, random.Random(seed)) is question for seed in range(5))


@pytest.mark.parametrize(
    "options",
    [
        ("비타민 A", "비타민 B와 C", "비타민 D", "비타민 E", "비타민 K"),
        ("A형", "B형", "AB형", "O형", "Rh 음성"),
        ("E. coli", "C. difficile", "B. cereus", "A. baumannii", "D. latum"),
        ("C 반응단백", "D-이량체", "B세포", "A/G 비", "E항원"),
        ("인플루엔자 A와 B", "A군 사슬알균", "B형간염", "C-펩타이드", "단백질 C"),
        ("위 절제", "위와 이자", "눈과 귀", "요추 3번과 4번 사이", "제3뇌신경"),
        ("없음", "1회", "2회", "3회", "4회"),
        ("1, 000원", "2.5 mg", "10번 이상", "3~4일", "2와 1/2"),
        ("B 세포", "(가) 항목", "A 의원 원장", "C군 군수에게 신고", "A시 보건소장"),
        ("A", "C1", "C2", "D1", "D2"),
    ],
)
def test_options_with_letters_and_numbers_of_their_own_are_shuffled(options: tuple[str, ...]) -> None:
    assert not options_depend_on_order(make_question(options=options))


CORPUS = [
    json.loads(line)
    for line in (Path(__file__).parent / "reasoning_references.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Reasoning texts with an order of the options and the text that follows it; None where the order must be kept."""


@pytest.mark.parametrize("case", CORPUS, ids=[str(number) for number in range(1, len(CORPUS) + 1)])
def test_references_in_reasoning_follow_the_options_or_keep_them_in_order(case: dict[str, Any]) -> None:
    a, b, c, d, e = case["options"]
    question = ExamQuestion("q", "doctor", case["question"], (a, b, c, d, e), 1, case["reasoning"])
    order: list[int] = case["order"]
    if case["expected"] is None:
        assert options_depend_on_order(question)
        assert all(shuffled(question, random.Random(seed)) is question for seed in range(3))
        return
    assert not options_depend_on_order(question)
    moved = permuted(question, order)
    assert moved.reasoning == case["expected"]
    assert permuted(moved, [order.index(i) for i in range(5)]) == question


def test_the_corpus_of_references_covers_both_results() -> None:
    kept = sum(case["expected"] is None for case in CORPUS)
    assert len(CORPUS) >= 120
    assert kept >= 40
    assert len(CORPUS) - kept >= 100


fragments = st.sampled_from(
    [
        *("정답은 ", "보기 ", "따라서 ", "Option ", " is correct", "answer is ", "가 정답", "이다", "는 ", "은 ", "번"),
        *("(", ")", ". ", ", ", "：", "/", "-", "~", "**", "\n", " ", "와 ", "①", "2번", *LETTERS, *LETTERS),
        *("형", "비타민 ", "E. coli", "위염", "간염"),
    ]
)
reasonings = st.none() | st.lists(fragments, max_size=12).map("".join) | st.text(max_size=40)
option_texts = st.lists(fragments, max_size=3).map("".join) | st.text(max_size=12)


@settings(max_examples=400)
@given(reasonings, st.tuples(*[option_texts] * 5), option_texts, st.integers(0, 4), st.randoms(use_true_random=False))
def test_shuffling_and_undoing_it_returns_the_question(
    reasoning: str | None, options: tuple[str, ...], stem: str, answer: int, rng: random.Random
) -> None:
    a, b, c, d, e = options
    question = ExamQuestion("q", "doctor", stem, (a, b, c, d, e), answer, reasoning)
    state = rng.getstate()
    moved = shuffled(question, rng)
    assert moved.answer_text == question.answer_text
    if moved is question:
        return
    rng.setstate(state)
    order = rng.sample(range(5), 5)
    assert moved.options == tuple(options[i] for i in order)
    assert permuted(moved, [order.index(i) for i in range(5)]) == question
    names = re.compile(r"[A-E](?:형|\. coli)|비타민 [A-E]")
    assert names.findall(moved.reasoning or "") == names.findall(reasoning or "")


@pytest.mark.parametrize("reasoning", ["정답은 3번이다", "따라서 답은 2", "보기 ③은 틀리다", "정답: 4"])
def test_a_question_whose_reasoning_names_options_by_number_keeps_its_order(reasoning: str) -> None:
    assert options_depend_on_order(make_question(reasoning))
    assert not options_depend_on_order(make_question("22번 염색체의 이상이므로 정답은 B이다"))


def test_rotations_put_the_answer_once_at_every_letter() -> None:
    question = make_question("정답은 B")
    rotated = list(rotations(question))
    assert rotated[0] == question
    assert sorted(q.answer_letter for q in rotated) == list(LETTERS)
    assert all(q.reasoning == f"정답은 {q.answer_letter}" for q in rotated)


def test_direct_and_reasoned_answers_differ_in_the_cue_of_their_prompt() -> None:
    (only,) = exam_examples(make_question(), "letters")
    reasoned, direct = exam_examples(make_question("까닭."), "letters")
    assert direct == only
    assert direct.prompt == answer_prompt(make_question())
    assert reasoned.prompt is not None
    assert reasoned.prompt.user == answer_prompt(make_question()).user
    assert reasoned.prompt.cue != answer_prompt(make_question()).cue
    assert reasoned.completion == f" 까닭.\n{ANSWER_CUE} B. 위염"
    assert direct.completion == " B. 위염"
