"""Extraction by tables: every rule, what must not match, and a corpus of answer lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorachain.content_letters import squeezed
from lorachain.evaluation.answer_line import reasoned_text_choice
from lorachain.evaluation.extraction import answer_line_complete, kormedeval_choice, lm_eval_choice, reasoned_choice
from lorachain.evaluation.protocols.lm_eval import STOPS, before_stop
from lorachain.prompts import ANSWER_CUE, AnswerStyle, answer_text
from lorachain.records import LETTERS, ExamQuestion

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


@pytest.mark.parametrize(
    ("text", "by_text", "by_letter"),
    [
        ("정답： 두통 (E)", 2, 4),  # the letter is another option's
        ("정답： 두통 (C)", 2, 2),
        ("풀이： 마른 기침이다.\n정답： 마른기침 (A).\n정답： 열 (B)", 1, 0),
        ("정답： 비타민 A 결핍 (D)", 3, 3),  # no option's text
        ("정답： D", 3, 3),
        ("정답은 B", 1, 1),
        ("정답： 모름", None, None),
    ],
)
def test_a_model_that_names_the_text_first_is_read_by_it(text: str, by_text: int | None, by_letter: int | None) -> None:
    assert reasoned_text_choice(text, OPTIONS) == by_text
    assert reasoned_choice(text, OPTIONS) == by_letter


CORPUS = [
    json.loads(line) for line in (Path(__file__).parent / "answer_lines.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Generated answers with their options and the letter that they name; None for no option or several."""


@pytest.mark.parametrize("case", CORPUS, ids=[str(number) for number in range(1, len(CORPUS) + 1)])
def test_answer_lines(case: dict[str, Any]) -> None:
    choice = reasoned_choice(case["text"], case["options"])
    assert (None if choice is None else LETTERS[choice]) == case["answer"]
    # The same behind a reasoning, in the form in which a generation has it.
    behind = reasoned_choice(f" 까닭은 이렇다.\n{case['text']}", case["options"])
    assert behind == choice


def test_the_corpus_of_answer_lines_is_large_and_covers_every_answer() -> None:
    assert len({(case["text"], *case["options"]) for case in CORPUS}) >= 150
    assert {case["answer"] for case in CORPUS} == {*LETTERS, None}


words = st.sampled_from(
    [
        *("E. coli", "A. ", "B형", "(C)", "비타민 D", "C 반응단백", "D-이량체", "Ａ", "e", "\\boxed{B}", *LETTERS),
        *("정답", "답: ", "다", "입니다", "번", "2번", "①", "1", "위염", " 아니라 ", "또는 B", "not "),
        *("-", ".", ":", "*", "**", "_", "`"),
    ]
)
any_text = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)
option_texts = (any_text | st.lists(words, max_size=4).map("".join)).map(str.strip).filter(squeezed)


@settings(max_examples=400)
@given(
    options=st.lists(option_texts, min_size=5, max_size=5, unique_by=squeezed),
    answer=st.integers(0, 4),
    style=st.sampled_from(["letters", "options"]),
)
def test_a_trained_answer_is_read_as_its_option_whatever_the_options_say(
    options: list[str], answer: int, style: AnswerStyle
) -> None:
    a, b, c, d, e = options
    trained = {
        (written, number): answer_text(ExamQuestion("q", "s", "?", (a, b, c, d, e), number), written)
        for written in ("letters", "options")
        for number in range(5)
    }
    written = trained[style, answer]
    # Options such as "x (B)" as A and "A. x" as B make one line of two answers.
    assume([squeezed(line) for line in trained.values()].count(squeezed(written)) == 1)
    assert reasoned_choice(f" 풀이.\n{ANSWER_CUE}{written}", options) == answer


def test_an_answer_that_is_the_text_of_two_options_names_none() -> None:
    assert reasoned_choice("정답： 열", ("열", "열", "c", "d", "e")) is None


@pytest.mark.parametrize(
    ("text", "complete"), [("정답： B", False), ("정답： B\n", True), ("x\n정답：\n", False), ("x\n\n", False)]
)
def test_an_answer_line_is_complete_at_its_newline(text: str, complete: bool) -> None:
    assert answer_line_complete(text) == complete


braces = ("{", "}", "```json", "```JSON", "```", " ", "\n", "x", "\\boxed{C}")
objects = ('{"정답": "B"}', '{"answer": "c"}', "{'정답': 'A'}", '{"정답": null}')


@settings(max_examples=500)
@given(st.lists(st.sampled_from([*braces, *objects]), max_size=14).map("".join))
def test_kormedeval_reads_what_its_published_patterns_read(text: str) -> None:
    """The published patterns take quadratic time; ours find the same objects."""
    fenced = re.search(r"```json\s*(\{.*?\})\s*```", text, re.DOTALL | re.IGNORECASE)
    found = [fenced.group(1)] if fenced else re.findall(r"\{.*?\}", text, re.DOTALL)
    boxed = re.search(r"\\boxed\{([A-E])\}", text)
    letters = [re.search("[A-Ca-c]", source[8:]) for source in found if source in objects[:3]]
    letter = letters[-1] if letters and letters[-1] else None
    expected = letter.group() if letter else boxed.group(1) if boxed else None
    assert kormedeval_choice(text) == (None if expected is None else LETTERS.index(expected.upper()))
