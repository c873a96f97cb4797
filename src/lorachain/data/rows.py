"""Rows of any source, the policy for bad ones, and how a field of a row is read."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from lorachain.data.normalization import NULL_MARKERS, normalize_name
from lorachain.errors import DataError

Row = dict[str, object]


class Located(NamedTuple):
    """A row with its position."""

    where: str
    """For messages: `file:line`, or `file:row N` where there are no lines."""
    number: int
    """The line (or row) number in it, from 1."""
    row: Row


@dataclass
class Tally:
    """The one policy for bad rows: the first is an error, or all are counted (`--skip-bad-rows`)."""

    skip_bad_rows: bool = False
    rows: int = 0
    """Records accepted so far."""
    bad_rows: int = 0
    first_bad: str | None = None
    writers: Counter[str] = field(default_factory=Counter)
    """Who wrote the reasoning of the accepted records, with the number of these."""

    def refuse(self, where: str, expected: str, actual: str) -> None:
        """Counts a bad row.

        Raises:
            DataError: when bad rows are not skipped.
        """
        message = f"{where}: expected {expected}, found {actual}."
        if not self.skip_bad_rows:
            raise DataError(f"{message} Fix it, or pass --skip-bad-rows to count such rows and continue.")
        self.bad_rows += 1
        self.first_bad = self.first_bad or message


def shorten(value: object, width: int = 80) -> str:
    """A value as a message shows it: its repr, cut."""
    try:
        text = repr(value) if not isinstance(value, str) else repr(value[: 2 * width])
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= width else f"{text[:width]}..."


def text_of(value: object, nulls: Set[str] = NULL_MARKERS) -> str | None:
    """A field of a normalized row as stripped text; None where it is absent: None, NaN, blank, or one of `nulls`.

    Raises:
        ValueError: the value is neither text nor a number, or contains half a surrogate pair; says what it is.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{type(value).__name__} {shorten(value)}")
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"half a surrogate pair in {shorten(text)}") from None
    return text if text and text not in nulls else None


def value_of(row: Row, name: str) -> object:
    """The value of the field `name`, whose name compares without case or outer space; None where there is none."""
    if name in row:
        return row[name]
    return next((value for key, value in row.items() if key.strip().casefold() == name.casefold()), None)


def first_of(row: Row, names: tuple[str, ...], nulls: Set[str] = NULL_MARKERS) -> str | None:
    """The first of the fields `names` that has text.

    Raises:
        ValueError: a field contains something that is neither text nor a number.
    """
    for name in names:
        try:
            text = text_of(value_of(row, name), nulls)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if text is not None:
            return text
    return None


def field_names(row: Mapping[str, object]) -> str:
    """The first names of a row's fields, for messages."""
    return ", ".join(map(str, list(row)[:12]))


class RawRow(NamedTuple):
    """A row as its format has it, with its position."""

    where: str
    number: int
    row: Mapping[str, object]


def header_problem(fields: Sequence[str]) -> str | None:
    """Why these are not the names of a table's columns; None where they are."""
    seen: set[str] = set()
    for name in filter(None, map(normalize_name, fields)):
        if name in seen:
            return f"{shorten(name)} twice in {shorten(list(fields))}"
        seen.add(name)
    return None if seen else "only blank names"
