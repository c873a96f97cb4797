"""The language of an explanation, the option that it names last, and where its answer begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain.evaluation.reasoning_text import hangul_share, last_named, reasoning_of
from lorachain.records import ExamQuestion

OPTIONS = ("위염", "급성 위염", "폐렴", "천식", "빈혈")
QUESTION = ExamQuestion("q", "doctor", "진단은?", OPTIONS, 0)


@given(
    st.lists(
        st.sampled_from(["가", "힣", "ㄱ", "A", "z", "é", "漢", "Ж", " ", "1", ".", "\n", "가나", "ab"]), max_size=12
    )
)
def test_hangul_share_counts_letters(pieces: list[str]) -> None:
    text = "".join(pieces)
    letters = [character for character in text if character.isalpha()]
    hangul = [character for character in letters if "가" <= character <= "힣" or "ㄱ" <= character <= "ㆎ"]
    assert hangul_share(text) == (len(hangul) / len(letters) if letters else 1.0)


@pytest.mark.parametrize(
    ("text", "allowed", "share"),
    [
        ("가나 Aspirin", (), 2 / 9),
        ("가나 Aspirin", ("아스피린(aspirin)",), 1.0),  # whatever the case
        ("가나 Aspirin ab", ("aspirin 100",), 2 / 4),
        ("가나 aspirins", ("aspirin",), 2 / 10),  # another word
        ("Aspirin", ("aspirin",), 1.0),  # nothing remains
        ("", (), 1.0),
        ("가 漢字", (), 1 / 3),
        ("ab 漢", ("ab",), 0.0),
    ],
)
def test_terms_of_the_question_are_not_foreign(text: str, allowed: tuple[str, ...], share: float) -> None:
    assert hangul_share(text, allowed) == pytest.approx(share)


@given(st.lists(st.sampled_from(range(2, 5)), max_size=5))
def test_the_option_that_is_named_last(named: list[int]) -> None:
    text = ", ".join(f"{OPTIONS[i]}의 소견" for i in named)
    assert last_named(text, QUESTION) == (named[-1] if named else None)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("폐렴이 아니라 위염이다", 0),
        ("위염 가운데 급성 위염이다", 1),  # the longer of two names that end together
        ("급성 위염이 아니라 위염이다", 0),
        ("소견은 (C)에 맞는다", 2),
        ("천식이 아니므로 B가 옳다", 1),
        ("B가 아니라 천식이 옳다", 3),
        ("비타민 B 결핍으로 천식이 온다", 3),
        ("비타민 B가 모자란다", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_text_or_by_a_letter_that_refers_to_it(text: str, option: int | None) -> None:
    assert last_named(text, QUESTION) == option


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        (" 열이 난다.\n정답： A", "열이 난다."),
        (" 열이 난다.\n정답： A\n정답： B", "열이 난다."),
        ("정답： A", ""),
        (" 열이 난다. ", "열이 난다."),
        (" 정답은 모른다.\nAnswer: B", "정답은 모른다."),
    ],
)
def test_reasoning_is_what_comes_before_the_first_answer_line(text: str, reasoning: str) -> None:
    assert reasoning_of(text) == reasoning
