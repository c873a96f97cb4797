"""Planted samples: each is rejected under its own name, and a good one is not."""

from dataclasses import replace

import pytest
from reasoning_making import GOOD, HELD_OUT, QUESTION, Answer, ScriptedEngine, named, right, verifier, written

from lorachain.prompts import AnswerStyle
from lorachain.reasoning.sample import Check, Sample, question_key
from lorachain.reasoning.text_checks import miscopies_a_term
from lorachain.records import ExamQuestion

CONTRADICTING = GOOD.replace("그러므로 빈혈에 해당한다", "그러므로 이 환자는 천식에 해당한다")
PLANTED: dict[Check, Answer] = {
    "parsed": lambda question: f" {GOOD}\n정답： 알 수 없음",
    "right": lambda question: f" {GOOD}{named(question, 'ABCDE'[(question.answer + 1) % 5])}",
    "answer_line": lambda question: right(question) + "\n정답을 다시 확인하면 이와 같다.",
    "consistent": lambda question: right(question, CONTRADICTING),
    "length": lambda question: right(question, "네."),
    "repetition": lambda question: right(question, GOOD + " 혈색소가 낮으면 쉽게 지친다." * 12),
    "language": lambda question: right(
        question, "The 혈색소 is low and the patient is pale, so the oxygen capacity is reduced."
    ),
    "leak": lambda question: right(question, f"힌트에서 정답이 주어졌으므로 맞추어 풀이한다. {GOOD}"),
    "held_out": lambda question: right(question, f"{HELD_OUT.question} 라는 문제와 같다. {GOOD}"),
    "dictionary": lambda question: right(question, f"Anemia의 우리말 이름은 심방증이다. {GOOD}"),
    "support": lambda question: right(question, "오늘은 날씨가 맑고 바람이 부드럽게 분다. 그래서 공원을 걷는다."),
}


def check(answer: Answer, number: int = 0, *, asked_again: Answer = right, finish: str = "stop") -> Sample:
    engine = ScriptedEngine(asked_again)
    (sample,) = verifier(engine).check({question_key(QUESTION): QUESTION}, [written(answer, number, finish)])
    return sample


@pytest.mark.parametrize("number", range(10))
def test_a_good_sample_passes_in_every_order(number: int) -> None:
    sample = check(right, number)
    assert sample.failed == []
    assert sample.reasoning == GOOD
    assert len(sample.shuffled_choices) == 2
    assert set(sample.shuffled_choices) == {QUESTION.answer}
    assert sample.support_gain is not None
    assert sample.support_gain > 0


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_sample_is_rejected_under_its_own_name(name: Check, number: int) -> None:
    assert check(PLANTED[name], number).rejected_by == name


@pytest.mark.parametrize(
    ("text", "miscopied"),
    [
        ("Atrial septal defect의 우리말 이름은 심방중격결손이다.", False),
        ("Atrial septum의 우리말 이름은 심방중격이다.", True),
        ("Atriel 질환이다.", True),
        ("atrial defects를 먼저 의심한다.", False),
        ("Defecation 장애는 없다.", True),
        ("MRI와 CT에서 이상이 없다.", False),
    ],
)
def test_a_term_that_was_lost_halfway_is_noticed(text: str, miscopied: bool) -> None:
    assert miscopies_a_term(text, ["다음 질환의 담당 병동은? Atrial septal defect"]) is miscopied


@pytest.mark.parametrize("number", range(10))
def test_an_unfinished_sample_is_rejected(number: int) -> None:
    assert check(right, number, finish="length").rejected_by == "finished"


@pytest.mark.parametrize("letter", "ABCDE")
@pytest.mark.parametrize("number", range(10))
def test_a_writer_that_always_names_one_letter_gets_none_accepted(letter: str, number: int) -> None:
    def always(question: ExamQuestion) -> str:
        return f" {GOOD}{named(question, letter)}"

    sample = check(always, number, asked_again=always)
    assert sample.rejected_by in ("right", "consistent", "shuffle")
    if "right" not in sample.failed:
        assert "shuffle" in sample.failed


@pytest.mark.parametrize("number", range(5))
def test_an_answer_that_changes_with_the_order_is_rejected(number: int) -> None:
    """Lucky in its own order and in one of the further ones is not enough."""

    def lucky(letters: str) -> Answer:
        return lambda question: right(question) if question.answer_letter in letters else f" {GOOD}\n정답： 위염"

    own = written(right, number)
    letter = "ABCDE"[own.order.index(QUESTION.answer)]
    following = "ABCDE"[("ABCDE".index(letter) + 1) % 5]
    assert check(right, number, asked_again=lucky(letter + following)).rejected_by == "shuffle"


@pytest.mark.parametrize(("style", "passes"), [("options", True), ("letters", False)])
def test_an_answer_is_read_in_the_way_that_the_model_is_scored(style: AnswerStyle, passes: bool) -> None:
    """The right option's text with a letter that is another's: where the model answers by the text, the text counts."""

    def right_text(question: ExamQuestion) -> str:
        other = "A" if question.answer_letter != "A" else "B"
        return f" {GOOD}\n정답： {question.answer_text} ({other})"

    checks = verifier(ScriptedEngine(right_text), style=style)
    drawn_right, drawn = checks.check({question_key(QUESTION): QUESTION}, [written(right), written(right_text, 1)])
    assert ("shuffle" not in drawn_right.failed) == passes
    assert ("right" not in drawn.failed) == passes


def test_the_further_orders_repeat_no_letter_of_the_right_option() -> None:
    engine = ScriptedEngine(right)
    samples = [written(right, number) for number in range(5)]
    verifier(engine).check({question_key(QUESTION): QUESTION}, samples)
    # Five samples with two further orders each share five questions, one per letter.
    assert sorted(engine.shown[request.text].answer_letter for request in engine.asked) == list("ABCDE")


def test_models_are_asked_about_right_samples_only() -> None:
    engine = ScriptedEngine(right)
    (sample,) = verifier(engine).check({question_key(QUESTION): QUESTION}, [written(PLANTED["right"])])
    assert engine.asked == []
    assert sample.support is None


def test_support_needs_a_gain_over_no_reasoning() -> None:
    engine = ScriptedEngine(right)
    always = verifier(engine, support=lambda text: True)
    (sample,) = always.check({question_key(QUESTION): QUESTION}, [written(right)])
    assert sample.failed == ["support"]
    assert sample.support_gain == 0


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        ("Anemia의 우리말 이름은 빈혈이다.", True),
        ("Anemia의 우리말 이름은 심방증이다.", False),
        ("Anemia의 한국어 병명은 빈혈증후군이다.", True),
        ("Anemia의 한국어 병명은 심근증이다.", False),
        ("심방증(Atrial disease)은 드물다.", True),
        ("심방염(Atrial disease)은 드물다.", False),
        ("Anemia 환자에게 철분을 준다.", True),
        ("빈혈의 담당 병동은 목련 병동이다.", True),
        ("빈혈의 담당 병동은 장미 병동이다.", False),
        ("빈혈의 담당 병동은 멀고 찾기 어렵다.", True),
        ("anemia 는 우리말로 빈혈이라고 한다.", True),
    ],
)
def test_pairs_of_terms_agree_with_the_dictionary(text: str, agrees: bool) -> None:
    engine = ScriptedEngine(right)
    assert verifier(engine).terms.agrees(text) is agrees


def test_letters_of_the_question_do_not_support_an_answer() -> None:
    """The scorer must not see which letter the reasoning concluded with."""
    seen: list[str] = []

    def remember(text: str | None) -> bool:
        seen.extend([text] if text is not None else [])
        return text is not None

    engine = ScriptedEngine(right)
    reasoning = "혈색소가 낮다. 보기 B는 이에 맞고 정답은 B번이다. (B)가 옳다."

    def answer(question: ExamQuestion) -> str:
        return right(question, reasoning.replace("B", question.answer_letter))

    verifier(engine, support=remember).check({question_key(QUESTION): QUESTION}, [written(answer)])
    assert seen
    assert not any(letter in text for text in seen for letter in "ABCDE")


def test_english_terms_of_the_question_are_no_foreign_language() -> None:
    question = replace(QUESTION, question="다음 질환의 담당 병동은 어디인가? Atrial septal defect of childhood")
    text = "Atrial septal defect of childhood의 담당을 찾는다. 혈색소가 낮다."
    engine = ScriptedEngine(right)
    key = question_key(question)
    (sample,) = verifier(engine).check({key: question}, [written(lambda q: right(q, text), question=question)])
    assert sample.failed == []


@pytest.mark.parametrize(
    ("question", "text", "speaks"),
    [
        ("다음 질환의 담당 병동은? Anemia", "Anemia의 한국어 병명은 빈혈이다.", True),
        ("다음 질환의 담당 병동은? Anemia", "ANEMIA 환자는 목련 병동에서 진료한다.", True),
        ("다음 질환의 담당 병동은? Anemia", "빈혈의 담당 병동은 목련 병동이다.", True),
        ("다음 질환의 담당 병동은? Anemia", "심방증의 담당 병동은 목련 병동이다.", False),
        ("다음 질환의 담당 병동은? Anemia", "A와 관련되는 용어는 목련 병동이다.", False),
        ("다음 중 Atrial disease와 Anemia의 차이는?", "심방증은 심장의 병이다.", True),
        ("창백한 환자의 진단은?", "혈색소가 낮다.", True),
    ],
)
def test_reasoning_speaks_of_a_term_of_the_question(question: str, text: str, speaks: bool) -> None:
    engine = ScriptedEngine(right)
    assert verifier(engine).terms.speaks_of(question, text) is speaks
