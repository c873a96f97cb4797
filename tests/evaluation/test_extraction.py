"""Extractors are table tests: every rule, and what must not match."""

import pytest

from lorachain.evaluation.extraction import answer_line_complete, kormedeval_choice, lm_eval_choice, reasoned_choice
from lorachain.evaluation.protocols.lm_eval import STOPS, before_stop

OPTIONS = ("열", "마른 기침", "두통", "구토", "발진")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        (" B", 1),
        ("b", 1),
        ("정답: C", 2),
        ("정답 C, 정답: D", 3),  # the last match of the first pattern
        ("A라고 보이나 정답은 E 입니다", 4),
        ("A or B", 1),  # last match of \b([ABCDE])\b
        ("정답：B", 1),  # the full-width colon is not in [:\s]; the bare letter is found
        ("A. 경과관찰 B", 0),  # the third pattern comes before the fourth
        ("", None),
        ("모르겠다", None),
        ("Apple", None),
        ("B형간염", None),  # 형 is a word character
        ("정답: 바", None),
        ("정답A", 0),
    ],
)
def test_lm_eval(text: str, choice: int | None) -> None:
    assert lm_eval_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" B\n\nA. x", " B"),
        (" B. 열", " B"),
        ("Q: x", ""),
        ("a</s>b", "a"),
        ("a<|im_end|>", "a"),
        ("가", "가"),
        ("a\nb", "a\nb"),
    ],
)
def test_text_before_the_first_stop(text: str, kept: str) -> None:
    assert before_stop(text, STOPS) == kept


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('{"정답": "A"}', 0),
        ('{"answer": "d"}', 3),
        ('{"정답": "A"} 아니, {"정답": "B"}', 1),  # the last object
        ('```json\n{"정답": "C"}\n``` {"정답": "E"}', 2),  # a fenced one wins
        ("{'정답': 'B'}", 1),  # a Python literal
        ('{"정답": "B. 기침"}', 1),
        ('{"정답": null} \\boxed{D}', 3),
        ('{"x": 1}', None),
        ("\\boxed{E}", 4),
        ("\\boxed{A} \\boxed{B}", 0),
        ("정답: A", None),
        ("{정답: A}", None),
        ('{"정답": "3"}', None),
        ('{"정답": "A"', None),  # never closed
        ("[" * 5000, None),
        ("{" + "[" * 3000 + "}", None),
        ('{"정답": 1, "answer": "C"}', 2),
        ("", None),
    ],
)
def test_kormedeval(text: str, choice: int | None) -> None:
    assert kormedeval_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        (" 까닭은 이렇다.\n정답： B. 마른 기침", 1),
        (" 까닭은 이렇다.\n정답： 마른 기침 (B)", 1),
        ("정답: 마른기침", 1),
        ("정답：\n두통", 2),  # a model may put its answer on the next line
        ("정답： (C)", 2),
        ("정답： D", 3),
        ("정답： E번", 4),
        ("정답： 비타민 A 결핍 (D)", 3),
        ("정답： Aspirin", None),
        ("정답： A. 열\n정답： B. 마른 기침", 0),  # the first answer line counts
        ("정답은 B", 1),  # without an answer line, a sentence that states the answer
        ("풀이만 있다", None),
        ("정답： 모름", None),
    ],
)
def test_reasoned(text: str, choice: int | None) -> None:
    assert reasoned_choice(text, OPTIONS) == choice


def test_equal_option_texts_are_not_told_apart() -> None:
    assert reasoned_choice("정답： 열", ("열", "열", "c", "d", "e")) is None


@pytest.mark.parametrize(
    ("text", "complete"), [("정답： B", False), ("정답： B\n", True), ("x\n정답：\n", False), ("x\n\n", False)]
)
def test_an_answer_line_is_complete_at_its_newline(text: str, complete: bool) -> None:
    assert answer_line_complete(text) == complete
