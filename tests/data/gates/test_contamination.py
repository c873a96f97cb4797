"""Held-out questions in texts and among exam questions."""

from dataclasses import replace

import pytest

from lorachain.data.decontamination import ExamScreen, without_held_out
from lorachain.data.gates.contamination import Contamination, Match
from lorachain.data.gates.question_index import build_index, question_hashes
from lorachain.data.gates.skeleton import grams, skeletons
from lorachain.records import ExamQuestion

LONG = ExamQuestion(
    "q1",
    "doctor",
    "52세 남자가 3일 전부터 시작된 발열과 우측 옆구리 통증으로 병원에 왔다. 혈압은 120/80 mmHg, "
    "체온은 38.5℃이다. 진단은?",
    ("세균성 급성 신우신염", "재발한 급성 방광염", "오른쪽 요관 결석", "신장 주위 농양", "만성 전립샘염 악화"),
    0,
    exam="real",
)
SHORT = ExamQuestion(
    "q2",
    "nurse",
    "항응고제로 옳은 것은?",
    (
        "와파린을 매일 복용한다",
        "스트렙토마이신을 주사한다",
        "아세트아미노펜을 먹는다",
        "프레드니솔론을 바른다",
        "메트포르민을 끊는다",
    ),
    0,
)
TINY = ExamQuestion("q3", "nurse", "옳은 것은?", ("가", "나", "다", "라", "마"), 1)
OTHER = "급성 신우신염은 신장에 생기는 세균 감염이다. 발열과 옆구리 통증이 흔하며, 항생제로 치료한다. " * 20


def gate(*questions: ExamQuestion, threshold: float = 0.7) -> Contamination:
    return Contamination([("dev", questions)], [], threshold)


def in_texts(contamination: Contamination, *texts: str) -> list[Match]:
    return contamination.in_texts(texts, grams(skeletons(texts)))


def quoted(question: ExamQuestion) -> str:
    return "\n".join([question.question, *question.options])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (quoted(LONG), "verbatim"),
        (LONG.question.replace(" ", ""), "verbatim"),
        (LONG.question.replace("남자가", "남자는").replace("통증으로", "통증에"), "containment"),
        (LONG.question.replace("38.5℃", "38.50 °C").replace("체온은", "체온이"), "containment"),
        ("\n".join([LONG.question.replace("52세 남자가 3일", "50대 남성이 사흘")[:45], *LONG.options]), "reworded"),
    ],
)
def test_a_changed_question_is_found(text: str, kind: str) -> None:
    [match] = in_texts(gate(LONG, SHORT), OTHER, f"{OTHER}\n{text}\n{OTHER}")
    assert (match.text, match.questions, match.question) == (1, "dev", "real/q1")
    if kind != "reworded":
        assert match.kind == kind


def test_a_text_about_the_same_subject_is_not_a_match() -> None:
    assert not in_texts(gate(LONG, SHORT, TINY), OTHER, "항응고제로 와파린이 있다.", "")


def test_parts_of_a_question_all_over_a_text_are_no_match() -> None:
    words = LONG.question.split()
    scattered = (" 그리고 나서 전혀 다른 이야기가 길게 이어진다. " * 20).join(
        " ".join(words[i : i + 3]) for i in range(0, len(words), 3)
    )
    assert not in_texts(gate(LONG), scattered)


def test_a_short_stem_counts_with_its_options_in_any_order() -> None:
    assert not in_texts(gate(SHORT), SHORT.question)
    reordered = replace(SHORT, options=SHORT.options[::-1])
    [match] = in_texts(gate(SHORT), quoted(reordered).replace("와파린을", "와파린은"))
    assert match.question == "q2"


@pytest.mark.parametrize("question", [LONG, SHORT, TINY], ids=["long", "short", "tiny"])
def test_whatever_the_screen_of_verbatim_text_finds_is_found(question: ExamQuestion) -> None:
    texts = [quoted(question), f"1{question.question}2", quoted(question).upper(), f"{OTHER}{quoted(question)}"]
    matched = {match.text for match in in_texts(gate(question, threshold=1.0), *texts)}
    assert matched >= {i for i, text in enumerate(texts) if ExamScreen([question]).contains(text)}


def same(contamination: Contamination, *questions: ExamQuestion) -> list[Match]:
    stems = [quoted(question) for question in questions]
    return contamination.same_questions(questions, grams(skeletons(stems)))


def test_the_same_question_among_others() -> None:
    changed = replace(
        LONG, question=LONG.question.replace("남자가", "남자는"), options=LONG.options[::-1], answer=4, id="x"
    )
    other = replace(LONG, options=("위염", "위궤양", "십이지장궤양", "위암", "역류식도염"), answer=3)
    tiny = replace(TINY, options=TINY.options[::-1], answer=3)
    matches = same(gate(LONG, SHORT, TINY), other, changed, tiny)
    assert [(match.text, match.question) for match in matches] == [(1, "real/q1"), (2, "q3")]


def test_what_was_left_out_before_is_left_out() -> None:
    questions = [LONG, SHORT, TINY, replace(TINY, options=("바", "사", "아", "자", "차"))]
    kept, _ = without_held_out(questions, [LONG, TINY])
    matched = {match.text for match in same(gate(LONG, TINY), *questions)}
    assert (
        [question for i, question in enumerate(questions) if i not in matched] == kept == questions[1:2] + questions[3:]
    )


def test_hashed_questions_are_found_without_their_text() -> None:
    salt = 0x1234567890ABCDEF
    index = build_index("test", question_hashes([LONG, SHORT], salt), salt)
    hashed = Contamination([], [index], 0.7)
    [match] = in_texts(hashed, OTHER, f"{OTHER}{LONG.question.replace('남자가', '남자는')}{OTHER}")
    assert (match.text, match.questions, match.kind) == (1, "test", "containment")
    assert [match.text for match in same(hashed, SHORT, LONG)] == [0, 1]
    unsalted = build_index("test", question_hashes([LONG]), salt)
    assert not in_texts(Contamination([], [unsalted], 0.7), LONG.question)


def test_no_questions_match_nothing() -> None:
    assert not in_texts(gate(), OTHER)
    assert not in_texts(Contamination([], [], 0.7), OTHER)
    assert not same(gate(), LONG)
