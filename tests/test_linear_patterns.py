"""The time to read a text grows with its length and no faster, whatever the text is.

Times are not measured. Our own patterns have a bounded width, so that each position costs at most a constant; the few
unbounded repeats of published patterns begin behind a character that they cannot match, so that a run is scanned once.
Calls are counted for what loops in Python.
"""

import re
import sys
from collections.abc import Callable, Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import FrameType
from typing import Any

import pytest

from lorachain import content_letters, letter_uses, option_references
from lorachain.data import exam_messages
from lorachain.evaluation import answer_line, extraction
from lorachain.evaluation.extraction import answer_line_complete, kormedeval_choice, lm_eval_choice, reasoned_choice
from lorachain.prompts import options_depend_on_order, permuted
from lorachain.records import ExamQuestion

REPEATS = {codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT}


def patterns_of(module: Any) -> dict[str, re.Pattern[str]]:
    named: dict[str, re.Pattern[str]] = {}
    for name, value in vars(module).items():
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, re.Pattern):
                named[f"{module.__name__.split('.')[-1]}.{name}[{number}]"] = item
    return named


def sequences(parsed: Any) -> Iterator[Any]:
    """Every sequence of items in a parsed pattern, those within groups, branches and repeats too."""
    yield parsed
    for _, argument in parsed:
        for part in argument if isinstance(argument, tuple | list) else [argument]:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, parser.SubPattern):
                    yield from sequences(inner)


def unbounded(pattern: re.Pattern[str]) -> list[tuple[Any, Any]]:
    """Each unbounded repeat with the item before it."""
    result = []
    for sequence in sequences(parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)):
        for before, (operator, argument) in zip([None, *sequence], sequence, strict=False):
            if operator in REPEATS and argument[1] is codes.MAXREPEAT:
                result.append((before, argument[2]))
    return result


MODULES = (content_letters, letter_uses, option_references, answer_line, exam_messages)
OWN = {k: v for m in MODULES for k, v in patterns_of(m).items()}
PUBLISHED = patterns_of(extraction)


def test_the_patterns_are_found() -> None:
    assert len(OWN) > 40
    assert len(PUBLISHED) == 8
    assert unbounded(re.compile("a(?:b|c*)d"))
    assert not unbounded(re.compile("a(?:b|c{0,9})d"))


@pytest.mark.parametrize("name", OWN)
def test_our_own_patterns_have_a_bounded_width(name: str) -> None:
    assert not unbounded(OWN[name])
    assert parser.parse(OWN[name].pattern).getwidth()[1] <= 400


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_unbounded_repeat_of_a_published_pattern_scans_a_run_once(name: str) -> None:
    for before, body in unbounded(PUBLISHED[name]):
        assert len(body) == 1
        assert body[0][0] is codes.IN  # one set of characters, nothing nested
        run = re.compile(r"[:\s]")
        assert before is not None
        characters = before_characters(before)
        assert characters
        assert not any(run.match(character) for character in characters)


def before_characters(item: Any) -> str:
    """The characters that the last position of an item can match."""
    operator, argument = item
    if operator is codes.LITERAL:
        return chr(argument)
    if operator is codes.IN:
        return "".join(chr(code) for kind, code in argument if kind is codes.LITERAL)
    assert operator is codes.SUBPATTERN
    return before_characters(argument[-1][-1])


def calls(function: Callable[[], object]) -> int:
    """How many Python and C functions are called."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


OPTIONS = ("급성 간염", "E. coli", "비타민 B와 C", "폐렴 (C)", "모두 옳다")
UNITS = [
    *("정답은 ", "정답: ", "(A) ", "B, ", "E. coli ", "A와 ", "B가 정답이다.\n", "A. 위염\n"),
    *(" ", "\n", "*", "{", "(", "①", "가", "답", "-"),
]


def question(reasoning: str) -> ExamQuestion:
    return ExamQuestion("q", "s", "옳은 것은?", OPTIONS, 1, reasoning)


READERS: dict[str, Callable[[str], object]] = {
    "permuted": lambda text: permuted(question(text), [4, 3, 2, 1, 0]),
    "options_depend_on_order": lambda text: options_depend_on_order(question(text)),
    "an option": lambda text: options_depend_on_order(ExamQuestion("q", "s", "?", (text, "a", "b", "c", "d"), 1)),
    "reasoned_choice": lambda text: reasoned_choice(text, OPTIONS),
    "answer line": lambda text: reasoned_choice(f"정답： {text}", OPTIONS),
    "answer_line_complete": answer_line_complete,
    "lm_eval_choice": lm_eval_choice,
    "kormedeval_choice": kormedeval_choice,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_calls_grow_at_most_linearly(reader: str, unit: str) -> None:
    small, large = (calls(lambda n=n: READERS[reader](unit * (n // len(unit)))) for n in (1_000, 4_000))  # type: ignore[misc]
    assert large <= 4.5 * small + 100


MILLION = 1_000_000


@pytest.mark.parametrize(
    ("text", "read", "expected"),
    [
        ("{" * MILLION, kormedeval_choice, None),
        ("```json{" * (MILLION // 8), kormedeval_choice, None),
        ("```json" + " " * MILLION, kormedeval_choice, None),
        ("```json{" + "} " * (MILLION // 2), kormedeval_choice, None),
        ("```json{" + "}" + " " * MILLION + "x", kormedeval_choice, None),
        ("{" * MILLION + '{"정답": "B"}', kormedeval_choice, None),
        ("\\boxed{" * (MILLION // 7) + "B}", kormedeval_choice, 1),
        ("정답" + " " * MILLION, lm_eval_choice, None),
        ("정답은 " + " " * MILLION + "B" + " " * MILLION, lm_eval_choice, 1),
        ("정답은  " * (MILLION // 5) + "B", lm_eval_choice, 1),
        (" " * MILLION + "정답： B", lambda text: reasoned_choice(text, OPTIONS), 1),
        ("정답： " + " " * MILLION + "B", lambda text: reasoned_choice(text, OPTIONS), 1),
        ("정답： (B)" + " " * MILLION, lambda text: reasoned_choice(text, OPTIONS), 1),
        ("정답： (A)" + " " * MILLION + "x", lambda text: reasoned_choice(text, OPTIONS), 0),
        ("정답은 " * (MILLION // 4) + "B", lambda text: reasoned_choice(text, OPTIONS), 1),
        ("*" * MILLION + "정답: B", lambda text: reasoned_choice(text, OPTIONS), 1),
        ("해당" + " " * MILLION, lambda text: options_depend_on_order(question(text)), True),
        ("해당 " * (MILLION // 3), lambda text: options_depend_on_order(question(text)), True),
    ],
    ids=range(18),
)
def test_a_million_characters_are_read(text: str, read: Callable[[str], object], expected: object) -> None:
    assert read(text) == expected
