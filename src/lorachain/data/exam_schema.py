"""One row to one question: KorMedMCQA's published schema and the ways in which copies of it differ."""

import ast
import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace

from lorachain.data.columns import (
    ANSWER_FIELDS,
    FIELDS,
    OPTION_FIELDS,
    QUESTION_FIELDS,
    REASONING_FIELDS,
    WRITER_FIELDS,
)
from lorachain.data.exam_files import PROFESSIONS, is_subject_name
from lorachain.data.exam_messages import thinking_of, with_messages
from lorachain.data.normalization import OPTION_NULL_MARKERS, normalize_value, whole_number
from lorachain.data.rows import Row, field_names, first_of, shorten, text_of, value_of
from lorachain.records import LETTERS, ExamQuestion

EXPECTED = (
    "a question in the schema subject, year, period, q_number, question, A, B, C, D, E, answer, cot (also 문제, 보기1 "
    "to 보기5, 정답, 해설)"
)
UNKNOWN_WRITER = "unknown"
_FIELDS = FIELDS["exam"]
NESTED_OPTIONS = _FIELDS["options"]
_ANSWERS = {str(i + 1): i for i in range(5)} | {letter: i for i, letter in enumerate(LETTERS)}
_MAX_LITERAL = 2**16
"""Characters of options written as a Python literal: its parser takes memory in proportion."""
_NUMBERS = ("year", "period", "q_number")
_SAME_SUBJECT = {"pharmacy": "pharm"}
"""The published pharmacist's test rows use both."""


def parse_question(row: Row, *, exam: str, subject: str | None = None) -> ExamQuestion:
    """The question of a normalized row (`normalize_row`).

    Args:
        exam: the exam's name.
        subject: the hub configuration, directory or file prefix, which decides the subject (`subject_of`).

    Raises:
        ValueError: says what was found instead.
    """
    row = with_messages(row)
    text = first_of(row, QUESTION_FIELDS)
    if text is None:
        raise ValueError(f"no question among the fields {field_names(row)}")
    # In SNUH's ClinicalQA, `exam` has findings that the question needs; elsewhere it may name the examination.
    if value_of(row, "chief_complaint") is not None and (findings := _detail(row, ("exam",))):
        text = f"{text}\n{findings}"
    a, b, c, d, e = _options(row)
    given = first_of(row, ANSWER_FIELDS)
    answer = answer_index(given)
    if answer is None:
        raise ValueError(f"the answer {shorten(given)} where 1 to 5 or A to E is allowed")
    subject = subject_of(_detail(row, _FIELDS["subject"]), subject, exam)
    reasoning = first_of(row, REASONING_FIELDS)
    if reasoning is not None:
        reasoning = thinking_of(reasoning) or reasoning
    question = ExamQuestion("", subject, text, (a, b, c, d, e), answer, reasoning, exam)
    numbers = [whole_number(number) for name in _NUMBERS if (number := _detail(row, _FIELDS[name]))]
    number = "-".join(numbers) if len(numbers) == 3 else content_hash(question)
    return replace(question, id=f"{subject}-{number}")


def subject_of(in_row: str | None, name: str | None, exam: str) -> str:
    """What a question's scores and few-shot examples are grouped by.

    That is the configuration, directory or file prefix `name` where there is one: published rows of one profession
    spell it in several ways. An unknown `name` yields only to a row that states a different, known profession
    (`my_exam_dev.csv` of doctors and nurses). Without a name the row decides, then the exam's name.
    """
    known = _SAME_SUBJECT.get(in_row.casefold(), in_row) if in_row else None
    if name is None:
        return known or (exam if is_subject_name(exam) else "exam")
    if known is None or known.casefold() not in PROFESSIONS or name.casefold() in PROFESSIONS:
        return name
    return known


def answer_index(given: str | None) -> int | None:
    """The option that an answer names: `3`, `3.0`, `C`, `③`, `3번`, `(3)`; None where it names none."""
    text = unicodedata.normalize("NFKC", given or "").strip().upper()
    return _ANSWERS.get(whole_number(text), _ANSWERS.get(text.strip("().").removesuffix("번").strip()))


def reasoning_writer(row: Row) -> str | None:
    """Who wrote the row's reasoning, where it says so."""
    return _detail(row, WRITER_FIELDS)


def _detail(row: Row, names: tuple[str, ...]) -> str | None:
    """A field without which the question can still be asked: absent where it is not text or a number."""
    try:
        return first_of(row, names)
    except ValueError:
        return None


def content_hash(question: ExamQuestion) -> str:
    """Replaces a missing number in an id, and distinguishes different questions of one id."""
    return text_hash("\0".join((question.question, *question.options, question.answer_letter)))


def text_hash(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _options(row: Row) -> list[str]:
    """The five options: the columns A to E, or a list or object of five under `options` or `choices`.

    Raises:
        ValueError: one is missing or not text.
    """
    nested = next((value_of(row, name) for name in NESTED_OPTIONS if _present(row, name)), None)
    in_columns = nested is None or any(_present(row, name) for names in OPTION_FIELDS.values() for name in names)
    columns = row if in_columns else _columns(nested)
    options = [first_of(columns, OPTION_FIELDS[letter], OPTION_NULL_MARKERS) for letter in LETTERS]
    if None in options:
        missing = LETTERS[options.index(None)]
        raise ValueError(f"no option {missing} among the fields {field_names(row)}")
    return [option for option in options if option is not None]


def _present(row: Row, name: str) -> bool:
    value = value_of(row, name)
    return not isinstance(value, str | float | None) or text_of(value, OPTION_NULL_MARKERS) is not None


def _columns(nested: object) -> Row:
    """Nested options as columns A to E. Known forms: a list of five; objects with the letters or 1 to 5 as keys; a list
    of `{"key": "A", "value": …}` (also `label` and `text`); `{"text": [five], "label": ["A", …]}`; each of them also as
    JSON, or as Python writes an object (SNUH's ClinicalQA), in a text field.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(nested, str):
        nested = _parsed(nested)
    if isinstance(nested, Mapping) and isinstance(nested.get("text"), list):
        texts, labels = nested["text"], nested.get("label")
        nested = dict(zip(map(str, labels), texts, strict=False)) if isinstance(labels, list) else texts
    if isinstance(nested, list) and nested and all(isinstance(item, Mapping) for item in nested):
        nested = {str(item.get("key", item.get("label"))): item.get("value", item.get("text")) for item in nested}
    if isinstance(nested, list):
        nested = dict(zip(LETTERS, nested, strict=True)) if len(nested) == len(LETTERS) else nested
    if not isinstance(nested, Mapping):
        size = f"a list of {len(nested)}" if isinstance(nested, list) else shorten(nested)
        raise ValueError(f"{size} as options where five are expected")
    columns: Row = {}
    for key, value in nested.items():
        index = answer_index(str(key))
        if index is None:
            if value is not None:  # Arrow gives every object the keys of all objects
                raise ValueError(f"an option {shorten(key)} where A to E are allowed")
        else:
            columns[LETTERS[index]] = value
    return columns


def _parsed(text: str) -> object:
    """Raises ValueError: it is neither JSON nor a Python literal."""
    try:
        return normalize_value(json.loads(text))
    except (ValueError, RecursionError):
        pass
    try:
        return normalize_value(ast.literal_eval(text.strip()[:_MAX_LITERAL]))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"the options {shorten(text)} where a list or an object is expected") from None
