"""One reader of tables for the whole package: .jsonl, .json, .csv, .tsv and .parquet.

Files are untrusted: whatever the bytes, a reader gives normalized rows or a `DataError` that names the file, and keeps
one line (or one batch of a .parquet) in memory at a time.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lorachain.data.normalization import NULL_MARKERS, normalize_name, normalize_row
from lorachain.data.parquet import read_parquet
from lorachain.data.text_io import MAX_LINE_BYTES, open_file, read_lines
from lorachain.errors import DataError

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MAX_JSON_BYTES = 64 * 2**20
"""A .json is parsed at once and takes up to 25 times its size in memory (a list of empty lists); larger data belongs
in a .jsonl, which is read line by line."""

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


def read_rows(path: Path, tally: Tally) -> Iterator[Located]:
    """The rows of one file in order, streamed and normalized (`normalize_row`); values keep the types of the format.

    What is not a row goes to `tally.refuse`; counting the good ones is left to the caller, who validates them.

    Raises:
        DataError: the file is missing, empty, not a regular file, of an unknown type, too large, in a wrong encoding,
            or damaged throughout; or a row is bad and bad rows are not skipped.
    """
    readers = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_delimited,
        ".tsv": _read_delimited,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        raise DataError(f"{path}: expected one of {', '.join(TABLE_SUFFIXES)}, found {path.suffix or 'no suffix'}.")
    for where, number, row in reader(path, tally):
        yield Located(where, number, normalize_row(row))


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


class _RawRow(NamedTuple):
    where: str
    number: int
    row: Mapping[str, object]


def _parse_json(text: str) -> object:
    """Raises ValueError with a short reason; nested 100,000 deep is one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _read_jsonl(path: Path, tally: Tally) -> Iterator[_RawRow]:
    for number, text, problem in read_lines(path):
        where, expected = f"{path}:{number}", "one JSON object per line"
        if problem:
            tally.refuse(where, "a line of UTF-8 text", problem)
        elif text.strip():
            try:
                row = _parse_json(text)
            except ValueError as error:
                tally.refuse(where, expected, f"{error}: {shorten(text)}")
                continue
            if isinstance(row, dict):
                yield _RawRow(where, number, row)
            else:
                tally.refuse(where, expected, shorten(row))


def _read_json(path: Path, tally: Tally) -> Iterator[_RawRow]:
    expected = 'a list of objects, or an object with such a list under "data"'
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise DataError(
                f"{path}: a .json over {MAX_JSON_BYTES // 2**20} MiB; save it as .jsonl (one object per line)."
            )
        content = _parse_json(data.decode().replace("\ufeff", ""))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: expected UTF-8 text, found byte 0x{data[error.start]:02x} (CP949, EUC-KR or "
                        "UTF-16?); save the file as UTF-8.") from None  # fmt: skip
    except ValueError as error:
        hint = " One object per line is .jsonl: rename the file." if "Extra data" in str(error) else ""
        raise DataError(f"{path}: expected {expected}, found no valid JSON: {error}.{hint}") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({error or 'out of memory'}).") from error
    del data
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected {expected}, found {shorten(content)}.")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield _RawRow(f"{path}:row {number}", number, row)
        else:
            tally.refuse(f"{path}:row {number}", "an object", shorten(row))


def _read_delimited(path: Path, tally: Tally) -> Iterator[_RawRow]:
    # The limit is the csv module's own global; its default of 128 Ki characters is less than a long article.
    csv.field_size_limit(MAX_LINE_BYTES)
    problems: dict[int, str] = {}

    def lines() -> Iterator[str]:
        for number, text, problem in read_lines(path):
            if problem:
                problems[number] = problem
            yield text or "\n"

    delimiter, kind = ("\t", "tab") if path.suffix.casefold() == ".tsv" else (",", "comma")
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        where, expected = f"{path}:{start}", f"a row of {kind}-separated fields"
        try:
            fields, actual = next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            fields, actual = [], f"a broken one ({error})"
        if problems:
            start, actual = problems.popitem()
            where, expected = f"{path}:{start}", "a line of UTF-8 text"
            problems.clear()
        if actual is None and not any(fields):
            continue
        if header is None:
            header = _header(where, expected, fields, actual)
        elif actual is not None:
            tally.refuse(where, expected, actual)
        elif len(fields) != len(header):
            tally.refuse(where, f"{len(header)} fields as in the header", f"{len(fields)}: {shorten(fields)}")
        else:
            yield _RawRow(where, start, dict(zip(header, fields, strict=True)))


def _header(where: str, expected: str, fields: list[str], actual: str | None) -> list[str]:
    """Nothing can be read without a header, so a bad one is an error even where bad rows are skipped."""
    names = [name for name in map(normalize_name, fields) if name]
    if actual is None and len(set(names)) != len(names):
        expected, actual = "a header whose names differ", shorten(fields)
    if actual is not None:
        raise DataError(f"{where}: expected {expected} (the header), found {actual}.")
    return fields


def _read_parquet(path: Path, tally: Tally) -> Iterator[_RawRow]:
    for number, row in enumerate(read_parquet(path), start=1):
        yield _RawRow(f"{path}:row {number}", number, row)
