"""Exam questions in chat form: `messages` whose user turn has the question with its options, and whose answer may begin
with a `<think>` part, as reasoning models and the data sets made with them write it."""

import re
import unicodedata

from lorachain.data.chat import exchange_of, has_messages
from lorachain.data.columns import QUESTION_FIELDS, REASONING_FIELDS
from lorachain.data.normalization import NULL_MARKERS
from lorachain.data.rows import Row, first_of, shorten, text_of, value_of
from lorachain.records import LETTERS

_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
_MARKS = (LETTERS, ("1", "2", "3", "4", "5"), ("①", "②", "③", "④", "⑤"))
# Of bounded width, so that no text takes longer than its length.
_NAMED = re.compile(
    r"(?:정답|답|answer)\s{0,3}(?:은|는|is)?\s{0,3}[:：]?\s{0,3}\*{0,3}\(?([A-E1-5①-⑤])(?:번|(?![\w%]))", re.IGNORECASE
)
_FIRST = re.compile(r"\W{0,10}([A-E1-5①-⑤])(?:[.)번:\s]|$)")


def thinking_of(text: str) -> str | None:
    """The `<think>` part of a text, without its tags; None where there is none."""
    return _split(text)[0]


def _split(text: str) -> tuple[str | None, str]:
    """The `<think>` part of a text, and what follows it."""
    for opening, closing in _TAGS:
        _, opened, after = text.partition(opening)
        thinking, closed, rest = after.partition(closing)
        if opened and closed:
            return thinking.strip() or None, rest.strip()
    return None, text


def with_messages(row: Row) -> Row:
    """The row with what its `messages` say and its columns do not: reasoning, and, where there is no column for the
    question, question, options and answer.

    Raises:
        ValueError: there is no question but in the messages, and they cannot be read.
    """
    if not has_messages(row):
        return row
    asked = first_of(row, QUESTION_FIELDS)
    try:
        exchange = exchange_of(row)
    except ValueError:
        if asked is not None:
            return row
        raise
    filled = dict(row)
    thinking, rest = _split(exchange.completion)
    if thinking and first_of(row, REASONING_FIELDS) is None:
        filled["cot"] = thinking
    if asked is None:
        filled |= _question(exchange.prompt)
        if text_of(value_of(row, "answer"), NULL_MARKERS) is None:
            filled["answer"] = _answer(rest)
    return filled


def _question(text: str) -> dict[str, object]:
    """Question and options of a text that has each option on a line of its own, marked A to E, 1 to 5 or ① to ⑤.

    Raises:
        ValueError: it has no such options.
    """
    lines = text.splitlines()
    for marks in _MARKS:
        starts: list[tuple[int, str]] = []
        for mark in marks:
            pattern = re.compile(rf"\s*\(?{mark}(?:[.)]|(?<=[①-⑤]))\s*(?P<option>\S.*)")
            after = starts[-1][0] + 1 if starts else 0
            line = next((n for n in range(after, len(lines)) if pattern.match(lines[n])), None)
            if line is None:
                break
            matched = pattern.match(lines[line])
            starts.append((line, matched["option"].strip() if matched else ""))
        if len(starts) == len(marks) and (question := "\n".join(lines[: starts[0][0]]).strip()):
            return {
                "question": question,
                **{letter: option for letter, (_, option) in zip(LETTERS, starts, strict=True)},
            }
    raise ValueError(f"a message without five options on lines marked A to E, 1 to 5 or ① to ⑤: {shorten(text)}")


def _answer(text: str) -> str | None:
    match = _NAMED.search(text) or _FIRST.match(text)
    return unicodedata.normalize("NFKC", match[1]) if match else None
