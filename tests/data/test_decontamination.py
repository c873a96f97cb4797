import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorachain.data import decontamination
from lorachain.data.decontamination import (
    ANCHOR,
    SHORT_ANCHOR,
    ExamScreen,
    content_key,
    normalized,
    without_held_out,
)
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.records import ExamQuestion

LONG = "13개월 남아가, 형이 하루 전 홍역으로 진단을 받아서 병원에 왔다. 조치는?"
SHORT = "옥시토신의 작용으로 옳은 것은?"
TINY = "옳은 것은?"


def ask(stem: str, *options: str, answer: int = 0) -> ExamQuestion:
    a, b, c, d, e = options or ("자궁 수축", "혈압 상승", "모유 분비 억제", "체온 저하", "동공 확대")
    return ExamQuestion(stem, "doctor", stem, (a, b, c, d, e), answer)


def test_lengths_of_the_examples() -> None:
    assert len(normalized(LONG)) >= ANCHOR > len(normalized(SHORT)) >= SHORT_ANCHOR > len(normalized(TINY))


def test_contains() -> None:
    screen = ExamScreen([ask(LONG), ask(SHORT), ask(TINY)])
    assert screen.contains(f"기출 문제 1. {LONG} 답은 다음과 같다.")
    assert screen.contains(LONG.replace(" ", "\n").replace("13", "１３"))
    assert not screen.contains(LONG[: len(LONG) // 2])
    assert not screen.contains(f"문제: {SHORT}")
    options = " / ".join(ask(SHORT).options)
    assert screen.contains(f"{SHORT} {options}")
    assert not screen.contains(f"{TINY} {options}")
    assert not screen.contains("")
    assert not ExamScreen([]).contains(LONG)


def test_a_stem_as_short_as_the_anchor_at_the_very_end() -> None:
    stem = "가" * ANCHOR
    assert ExamScreen([ask(stem)]).contains(stem)
    assert not ExamScreen([ask(stem)]).contains(stem[1:])


@pytest.mark.parametrize("length", range(9, 22))
def test_what_a_stem_of_each_length_needs(length: int) -> None:
    """Below 10 characters nothing, from 10 all its options beside it, from 20 itself."""
    stem = "가나다라마바사아자차카타파하거너더러머버서어저처"[:length]
    assert len(normalized(stem)) == length
    screen = ExamScreen([ask(stem)])
    options = " / ".join(ask(stem).options)
    assert screen.contains(f"앞 {stem} 뒤") == (length >= 20)
    assert screen.contains(f"앞 {stem} 뒤 {options}") == (length >= 10)
    assert not screen.contains(f"앞 {stem[:-1]} 뒤 {options}")


def test_same_question() -> None:
    screen = ExamScreen([ask(LONG), ask(TINY)])
    options = list(ask(TINY).options)
    assert screen.same_question(ask("옳은  것은 ?", *reversed(options), answer=4))
    assert screen.same_question(ask(TINY, *options, answer=3))  # its answer was corrected
    assert screen.same_question(ask(TINY, options[0], "가", "나", "다", "라"))  # other distractors, the same answer
    assert not screen.same_question(ask(TINY, options[0], "가", "나", "다", "라", answer=1))
    assert not screen.same_question(ask("옳지 않은 것은?"))


def test_versions_of_a_question_have_one_key() -> None:
    question = ask(LONG)
    key = content_key(question)
    a, b, c, d, e = question.options
    assert content_key(ask(f" {LONG}", e, b, c, d, a, answer=4)) == key
    assert content_key(ask(LONG, a, b, c, d, e, answer=1)) != key
    assert content_key(ask(LONG, a, b, c, d, "다른 것")) != key
    assert content_key(ask(SHORT)) != key


def test_without_held_out() -> None:
    train = [ask("가"), ask("나"), ask("다"), ask("나 ")]
    assert without_held_out(train, [ask("나!")]) == ([train[0], train[2]], 2)


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Mn", "Mc", "Me", "Lm")), max_size=60)


@given(stems=st.lists(words, min_size=1, max_size=5), before=words, after=words, data=st.data())
def test_every_stem_is_found_wherever_it_occurs(stems: list[str], before: str, after: str, data: st.DataObject) -> None:
    stems = [stem + "이 환자에게 먼저 할 조치로 가장 알맞은 것은 무엇인가" for stem in stems]
    screen = ExamScreen([ask(stem) for stem in stems])
    stem = data.draw(st.sampled_from(stems))
    text = f"{before}\n{stem}\n{after}"
    # Halves of a letter on both sides of a seam may compose into one; that is no copy of the stem any more.
    assume(normalized(stem) in normalized(text))
    assert screen.contains(text)


@given(stems=st.lists(words, max_size=5), text=words)
def test_agrees_with_a_plain_search(stems: list[str], text: str) -> None:
    screen = ExamScreen([ask(stem) for stem in stems])
    plain = normalized(text)
    expected = any(len(normalized(stem)) >= ANCHOR and normalized(stem) in plain for stem in stems)
    assert screen.contains(text) == expected


@st.composite
def planted(draw: st.DrawFn) -> tuple[list[ExamQuestion], str]:
    """Questions of any length that can be found, and a text that contains one of them, quoted as people quote."""
    any_text = st.text(max_size=30)
    questions = []
    for _ in range(draw(st.integers(1, 4))):
        middle = draw(st.sampled_from(["", "다음 중 옳은 것은?", "가장 알맞은 다음 조치는 무엇인가?"]))
        option = st.text(min_size=1, max_size=6) | st.sampled_from(["가", "E. coli"])
        options = draw(st.lists(option, min_size=5, max_size=5))
        questions.append(ask(draw(any_text) + middle + draw(any_text), *options))
    findable = [question for question in questions if len(normalized(question.question)) >= SHORT_ANCHOR]
    assume(findable)
    question = draw(st.sampled_from(findable))
    separator = draw(st.sampled_from(["\n", " / ", "\n① ", "), ("]))
    parts = [question.question, *draw(st.permutations(question.options))]
    form: Any = draw(st.sampled_from(["NFC", "NFD", "NFKC"]))
    body = unicodedata.normalize(form, separator.join(parts))
    spaced = body.replace(" ", draw(st.sampled_from([" ", "  ", "\n", "\u3000"])))
    return questions, f"{draw(any_text)}\n{spaced}\n{draw(any_text)}"


@given(planted())
def test_a_planted_question_is_always_contained(case: tuple[list[ExamQuestion], str]) -> None:
    questions, text = case
    assert ExamScreen(questions).contains(text)


REPEATED = {
    "a short anchor": "옥시토신의 작용으로 옳",
    "short stems": "".join(f"옥시토신의 작용으로 옳{i}" for i in range(60)),
    "a long anchor": "가" * 20,
    "an option": "자궁 수축 ",
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_work_grows_at_most_linearly_with_the_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in characters searched through: each window once, and the text once for each stem and option."""
    questions = [ask(f"옥시토신의 작용으로 옳{i}", *(f"선택지 {i} {n}" for n in range(5))) for i in range(60)]
    questions += [ask("가" * 20 + "나" * i) for i in range(1, 20)]
    needles = len(questions) + len({option for question in questions for option in question.options})
    searched = 0

    def occurs(part: str, text: str) -> bool:
        nonlocal searched
        searched += len(text)
        return part in text

    monkeypatch.setattr(decontamination, "_occurs", occurs)
    screen = ExamScreen(questions)
    work = {}
    for size in (1_000, 10_000, 100_000, 1_000_000):
        searched = 0
        text = REPEATED[name] * (size // len(REPEATED[name]))
        assert not screen.contains(text)
        work[size] = searched / len(text)
        assert searched <= needles * len(text)
    assert work[1_000_000] <= 1.1 * work[1_000]


def test_real_exam_planted_in_real_text(real_data: Path) -> None:
    dev = load_exam([str(real_data / "kormedmcqa")], "dev").questions
    screen = ExamScreen(dev)
    documents = list(stream_plain_text([str(real_data / "plain" / "kowiki-gen.jsonl")], max_samples=300))
    assert not any(screen.contains(document.text) for document in documents)
    rng = random.Random(0)
    long = [question for question in dev if len(normalized(question.question)) >= ANCHOR]
    assert len(long) > 900
    for question in rng.sample(long, 200):
        text = rng.choice(documents).text
        cut = rng.randrange(len(text))
        assert screen.contains(text[:cut] + question.question + text[cut:])


@pytest.mark.parametrize("text", ["가 나", "ＡＢ１２", "①", "Straße"])
def test_normalized_is_stable(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)
