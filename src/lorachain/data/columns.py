"""The names under which tables have what a record is made of, and columns that the user names."""

from collections.abc import Iterator, Mapping
from typing import Literal

from lorachain.data.rows import Located, Row, field_names
from lorachain.errors import DataError
from lorachain.records import LETTERS

Kind = Literal["plain_text", "dictionary", "exam", "instruct"]
"""What a source is read as."""

TERM_FIELDS = (
    "term",
    "korean",
    "ko",
    "표제어",
    "용어",
    "용어명",
    "한글",
    "한글명",
    "한글용어",
    "국문용어",
    "한글용어명",
)
DEFINITION_FIELDS = (
    *("definition", "meaning", "description"),
    *("뜻", "정의", "설명", "뜻풀이", "용어설명", "용어정의", "정의/뜻", "뜻/정의"),
)
ENGLISH_FIELDS = ("english", "en", "영어", "영문", "영문명", "영문용어", "영어용어", "영문용어명")
CATEGORY_FIELDS = ("category", "group", "분류")
CODE_FIELDS = ("code", "코드")
TEXT_FIELDS = ("text", "content", "document", "본문", "내용")
QUESTION_FIELDS = ("question", "문제", "질문", "지문")
ANSWER_FIELDS = ("answer", "정답", "답")
REASONING_FIELDS = ("cot", "reasoning", "explanation", "rationale", "해설", "풀이")
PROMPT_FIELDS = ("prompt", "instruction", "question", "질문")
INPUT_FIELDS = ("input",)
COMPLETION_FIELDS = ("completion", "response", "output", "answer", "답변")
MESSAGES_FIELDS = ("messages", "conversations", "conversation")
WRITER_FIELDS = ("reasoning_writer", "writer", "generator")
"""Who wrote the reasoning of a row: a model or a person."""


def _option_names(number: int, letter: str) -> tuple[str, ...]:
    circled = chr(ord("①") + number - 1)
    return (
        letter,
        *(
            f"{word}{mark}"
            for word in ("보기", "선택지", "선지", "option", "option_")
            for mark in (number, f" {number}")
        ),
        *(f"{word}{letter}" for word in ("보기", "option", "option_", "option ")),
        f"보기{circled}",
        circled,
        str(number),
    )


OPTION_FIELDS: dict[str, tuple[str, ...]] = {
    letter: _option_names(number, letter) for number, letter in enumerate(LETTERS, start=1)
}
FIELDS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "plain_text": {"text": TEXT_FIELDS},
    "dictionary": {
        "term": TERM_FIELDS,
        "definition": DEFINITION_FIELDS,
        "english": ENGLISH_FIELDS,
        "category": CATEGORY_FIELDS,
        "code": CODE_FIELDS,
    },
    "exam": {
        "question": QUESTION_FIELDS,
        **OPTION_FIELDS,
        "options": ("options", "choices", "선택지", "보기"),
        "answer": ANSWER_FIELDS,
        "cot": REASONING_FIELDS,
        "reasoning_writer": WRITER_FIELDS,
        "subject": ("subject", "직종", "과목"),
        "year": ("year", "연도", "년도", "시행연도"),
        "period": ("period", "교시"),
        "q_number": ("q_number", "문항번호", "문제번호", "번호"),
    },
    "instruct": {
        "prompt": PROMPT_FIELDS,
        "input": INPUT_FIELDS,
        "completion": COMPLETION_FIELDS,
        "messages": MESSAGES_FIELDS,
    },
}
"""Per kind, the fields of a record and the columns that are read as each, the first that has a value."""


def kinds_of_field(field: str) -> list[Kind]:
    """The kinds of source that have this field."""
    return [kind for kind, fields in FIELDS.items() if field in fields]


def fields_of(kinds: list[Kind]) -> str:
    """The fields of these kinds, for messages."""
    return ", ".join(dict.fromkeys(field for kind in kinds for field in FIELDS[kind]))


def renamed(rows: Iterator[Located], columns: Mapping[str, str], where: str, *, tabular: bool) -> Iterator[Located]:
    """The rows with the user's columns under the fields' own names (`columns`: field to column).

    A column that is named for a field is the only one that is read for it.

    Args:
        where: the file, for messages.
        tabular: every row has the same columns, so that the first one shows whether a column exists.

    Raises:
        DataError: no row has one of the columns.
    """
    missing = dict(columns)
    replaced = {name.casefold() for field in columns for names in FIELDS.values() for name in names.get(field, ())}
    last: Row = {}
    for located in rows:
        row = dict(located.row)
        values = {}
        for field, column in columns.items():
            if (key := _key(row, column)) is not None:
                missing.pop(field, None)
                values[field] = row[key]
        if tabular and missing:
            raise _no_column(where, missing, row)
        kept = {key: value for key, value in row.items() if key.strip().casefold() not in replaced}
        last = row
        yield located._replace(row={**kept, **values})
    if missing and last:
        raise _no_column(where, missing, last)


def _key(row: Row, column: str) -> str | None:
    if column in row:
        return column
    return next((key for key in row if key.strip().casefold() == column.strip().casefold()), None)


def _no_column(where: str, missing: Mapping[str, str], row: Row) -> DataError:
    field, column = next(iter(missing.items()))
    return DataError(
        f"{where}: no column {column!r} (given for {field}); its columns are {field_names(row)}. Correct --columns."
    )
