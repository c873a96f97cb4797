"""One row to one question: KorMedMCQA's published schema and the ways in which copies of it differ."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace

from lorachain.data.exam_files import PROFESSIONS, is_subject_name
from lorachain.data.normalization import OPTION_NULL_MARKERS, normalize_value, whole_number
from lorachain.data.rows import Row, field_names, first_of, shorten, text_of, value_of
from lorachain.records import LETTERS, ExamQuestion

EXPECTED = "a question in the schema subject, year, period, q_number, question, A, B, C, D, E, answer, cot"
NESTED_OPTIONS = ("options", "choices")
_ANSWERS = {str(i + 1): i for i in range(5)} | {letter: i for i, letter in enumerate(LETTERS)}
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
    text = first_of(row, ("question",))
    if text is None:
        raise ValueError(f"no question among the fields {field_names(row)}")
    a, b, c, d, e = _options(row)
    given = first_of(row, ("answer",))
    answer = _ANSWERS.get(whole_number(unicodedata.normalize("NFKC", given or "").upper()))
    if answer is None:
        raise ValueError(f"the answer {shorten(given)} where 1 to 5 or A to E is allowed")
    subject = subject_of(_detail(row, "subject"), subject, exam)
    reasoning = first_of(row, ("cot", "reasoning"))
    question = ExamQuestion("", subject, text, (a, b, c, d, e), answer, reasoning, exam)
    numbers = [whole_number(number) for name in ("year", "period", "q_number") if (number := _detail(row, name))]
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


def _detail(row: Row, name: str) -> str | None:
    """A field without which the question can still be asked: absent where it is not text or a number."""
    try:
        return first_of(row, (name,))
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
    columns = row if nested is None or any(_present(row, letter) for letter in LETTERS) else _columns(nested)
    options = [first_of(columns, (letter,), OPTION_NULL_MARKERS) for letter in LETTERS]
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
    JSON in a text field.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(nested, str):
        try:
            nested = normalize_value(json.loads(nested))
        except (ValueError, RecursionError):
            raise ValueError(f"the options {shorten(nested)} where a list or an object is expected") from None
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
        index = _ANSWERS.get(str(key).strip().upper())
        if index is None:
            if value is not None:  # Arrow gives every object the keys of all objects
                raise ValueError(f"an option {shorten(key)} where A to E are allowed")
        else:
            columns[LETTERS[index]] = value
    return columns
