"""The answer that is read from a generated text is that of the reference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorachain.evaluation.extraction import answer_line_complete, kormedeval_choice, lm_eval_choice, reasoned_choice
from reference import answers as reference

PIECES = (
    *(
        "정답",
        "정답은",
        ":",
        " ",
        "\n",
        "입니다",
        ".",
        "는 ",
        "A",
        "b",
        "C.",
        "d.",
        "E",
        "AB",
        "가",
        "B형",
        "(C)",
        "1",
        "=",
    ),
    "\t",
)
texts = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)
OPTIONS = ("위염", "마른 기침", "두통이 심함", "구토", "발진 또는 가려움")


@settings(max_examples=500)
@given(texts)
def test_lm_eval_reads_what_the_harness_reads(text: str) -> None:
    assert lm_eval_choice(text) == reference.lm_eval_choice(text)


OBJECTS = (
    *(
        '{"정답": "A"}',
        '{"정답": "b."}',
        '{"answer": "C"}',
        '{"answer": "d", "정답": "E"}',
        '{"정답": "E", "answer": "a"}',
    ),
    *(
        '{"정답": null, "answer": "B"}',
        '{"정답": 3, "answer": "b"}',
        "{'정답': 'C'}",
        "{'answer': None}",
        '{"정답": ""}',
    ),
    *('{"정답": "X"}', '{"정답":\n"D"}', '["정답", "A"]', '{"정답": ["B"]}', "{1, 2}", "{", "}", '{"x": 1}', "{}"),
    *(
        "```json",
        "```JSON",
        "```Json\n",
        "```",
        "\n",
        " ",
        "글",
        "\\boxed{A}",
        "\\boxed{c}",
        "\\BOXED{D}",
        "\\boxed{F}",
    ),
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(OBJECTS), max_size=8).map("".join))
def test_kormedeval_reads_what_the_authors_patterns_read(text: str) -> None:
    assert kormedeval_choice(text) == reference.kormedeval_choice(text)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('```JSON\n{"정답": "C"}\n``` {"정답": "E"}', 2),  # the fence in capitals
        ('```json\n{"정답":\n"C"}\n``` {"정답": "E"}', 2),  # an object over several lines
        ('{"answer": "A", "정답": "B"}', 1),  # 정답 before answer, whatever their order
        ('{"answer": "d"}', 3),
        ("\\boxed{b}", 1),  # a boxed letter in lower case
        ("\\BOXED{C}", 2),
        ('{"정답": "없음", "answer": "C"}', 2),  # no letter under the first key
        ('{"정답": "D"} {"x": 1}', 3),  # the last that has an answer
    ],
)
def test_what_kormedeval_ignores_and_prefers(text: str, choice: int) -> None:
    assert kormedeval_choice(text) == reference.kormedeval_choice(text) == choice


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("cue", reference.CUES)
def test_every_way_to_write_an_answer_is_read(number: int, cue: str) -> None:
    order = [*range(number, 5), *range(number)]
    options = [OPTIONS[i] for i in order]
    for written in reference.answers_that_name(number, options):
        for text in (f"{cue}{written}", f"까닭은 이렇다.\n{cue}{written}\n정답： 다른 것"):
            assert reasoned_choice(text, options) == number, text


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("sentence", reference.STATEMENTS)
def test_a_sentence_states_the_answer_where_there_is_no_cue(number: int, sentence: str) -> None:
    letter = reference.LETTERS[number]
    for written in (letter, f"({letter})", f"{letter}. {OPTIONS[number]}", f"{OPTIONS[number]} ({letter})"):
        text = f"열이 난다. {sentence.format(written)}"
        assert reasoned_choice(text, OPTIONS) == number, text


@pytest.mark.parametrize("cue", reference.CUES)
def test_what_names_no_option_or_several_is_no_answer(cue: str) -> None:
    for written in reference.answers_that_name_none(OPTIONS):
        assert reasoned_choice(f"{cue}{written}\n", OPTIONS) is None, written


@pytest.mark.parametrize("line", ["3번 마른 기침", "(3) 마른 기침", "③ 마른 기침", "5. 마른 기침"])
def test_a_text_says_more_than_the_number_before_it(line: str) -> None:
    """Models count from zero, or number what they list themselves."""
    assert reasoned_choice(f"정답： {line}", OPTIONS) == OPTIONS.index("마른 기침")
    assert reasoned_choice("정답： 3번 아무것도", OPTIONS) == 2


def test_a_line_may_begin_with_an_option_and_give_the_reason() -> None:
    """Not where the option is a single character, with which other words begin too."""
    options = ("위", "폐렴", "천식", "골절", "빈혈")
    assert reasoned_choice("정답： 폐렴, 열이 나고 기침을 하므로", options) == 1
    assert reasoned_choice("정답： 위, 장과 간 모두", options) is None
    assert reasoned_choice("정답： 위", options) == 0


@given(st.sampled_from(reference.CUES), st.text("가나 AB.:\n", max_size=8), st.text("가나 B\n", max_size=6))
def test_an_answer_line_is_complete_where_what_follows_changes_nothing(cue: str, answer: str, more: str) -> None:
    text = f"풀이.\n{cue}{answer}"
    stripped = answer.lstrip(" \n")
    assert answer_line_complete(text) == ("\n" in stripped)
    if answer_line_complete(text):
        assert answer_line_complete(text + more)
        assert reasoned_choice(text, OPTIONS) == reasoned_choice(text + more, OPTIONS)
    assert not answer_line_complete("풀이만 있다.\n\n")
