"""One reader of tabular files for the whole data room: .jsonl, .json, .csv, .tsv and .parquet.

Files come from strangers: whatever the bytes, a reader gives rows or a `DataError` that names the file, and it holds
one line (or one batch of a .parquet) in memory at a time.
"""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.data.text_io import MAX_LINE_BYTES, open_file, read_lines
from lorachain.errors import DataError

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MAX_JSON_BYTES = 64 * 2**20
"""A .json is parsed whole, at up to 25 times its size in memory (a list of empty lists); larger data belongs in .jsonl,
which is read by lines."""
PARQUET_BATCH_ROWS = 1024

Row = dict[str, object]


class Located(NamedTuple):
    """A row and the place that a message about it names: `file:line`, or `file:row N` where there are no lines."""

    where: str
    row: Row


@dataclass
class Tally:
    """The one policy for bad rows: the first ends the run, or all are counted (`--skip-bad-rows`)."""

    skip_bad_rows: bool = False
    rows: int = 0
    """Records accepted so far."""
    bad_rows: int = 0
    first_bad: str | None = None

    def refuse(self, where: str, expected: str, found: str) -> None:
        """Counts a bad row.

        Raises:
            DataError: when bad rows are not to be skipped.
        """
        message = f"{where}: expected {expected}, found {found}."
        if not self.skip_bad_rows:
            raise DataError(f"{message} Mend it, or pass --skip-bad-rows to count such rows and go on.")
        self.bad_rows += 1
        self.first_bad = self.first_bad or message


def read_rows(path: Path, tally: Tally) -> Iterator[Located]:
    """The rows of one file, in order, streamed; fields are as the format gives them (text, numbers, None, ...).

    Rows that are no rows go to `tally.refuse`; counting the good ones is left to the caller, who validates them.

    Raises:
        DataError: the file is missing, empty, no regular file, of an unknown type, too large, in a wrong encoding, or
            broken as a whole; or a row is bad and bad rows are not skipped.
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
    yield from reader(path, tally)


def shorten(value: object, width: int = 80) -> str:
    """A value as a message shows it: its repr, cut."""
    text = repr(value) if not isinstance(value, str) else repr(value[: 2 * width])
    return text if len(text) <= width else f"{text[:width]}..."


def text_of(value: object) -> str | None:
    """A field as stripped text; None where it is absent (None, NaN, blank).

    Raises:
        ValueError: the value is no text and no number, or holds half a surrogate pair; the message says what it is.
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
    return text or None


def first_of(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of the fields `names` that has text. Field names compare without case or outer space.

    Raises:
        ValueError: a field holds something that is neither text nor number.
    """
    folded = {str(key).strip().casefold(): value for key, value in row.items()}
    for name in names:
        try:
            text = text_of(folded.get(name.casefold()))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if text is not None:
            return text
    return None


def _parse_json(text: str) -> object:
    """Raises ValueError with a short reason; nested 100,000 deep is one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _read_jsonl(path: Path, tally: Tally) -> Iterator[Located]:
    for number, text, problem in read_lines(path):
        where, expected = f"{path}:{number}", "one JSON object a line"
        if problem:
            tally.refuse(where, "a line of UTF-8 text", problem)
        elif text.strip():
            try:
                row = _parse_json(text)
            except ValueError as error:
                tally.refuse(where, expected, f"{error}: {shorten(text)}")
                continue
            if isinstance(row, dict):
                yield Located(where, row)
            else:
                tally.refuse(where, expected, shorten(row))


def _read_json(path: Path, tally: Tally) -> Iterator[Located]:
    expected = 'a list of objects, or an object with such a list under "data"'
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise DataError(
                f"{path}: a .json over {MAX_JSON_BYTES // 2**20} MiB; save it as .jsonl (an object a line)."
            )
        content = _parse_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: expected UTF-8 text, found byte 0x{data[error.start]:02x} (CP949, EUC-KR or "
                        "UTF-16?); save the file as UTF-8.") from None  # fmt: skip
    except ValueError as error:
        hint = " One object a line is .jsonl: rename the file." if "Extra data" in str(error) else ""
        raise DataError(f"{path}: expected {expected}, found no valid JSON: {error}.{hint}") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({error or 'out of memory'}).") from error
    del data
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected {expected}, found {shorten(content)}.")
    for index, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield Located(f"{path}:row {index}", row)
        else:
            tally.refuse(f"{path}:row {index}", "an object", shorten(row))


def _read_delimited(path: Path, tally: Tally) -> Iterator[Located]:
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
            fields, found = next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            fields, found = [], f"a broken one ({error})"
        if problems:
            number, found = problems.popitem()
            where, expected = f"{path}:{number}", "a line of UTF-8 text"
            problems.clear()
        if found is None and not any(fields):
            continue
        if header is None:
            header = _header(where, expected, fields, found)
        elif found is not None:
            tally.refuse(where, expected, found)
        elif len(fields) != len(header):
            tally.refuse(where, f"{len(header)} fields as in the header", f"{len(fields)}: {shorten(fields)}")
        else:
            yield Located(where, dict(zip(header, fields, strict=True)))


def _header(where: str, expected: str, fields: list[str], found: str | None) -> list[str]:
    """Nothing can be read without a header, so a bad one is refused even where bad rows are skipped."""
    named = [name for name in fields if name]
    if found is None and len(set(named)) != len(named):
        expected, found = "a header whose names differ", shorten(fields)
    if found is not None:
        raise DataError(f"{where}: expected {expected} (the header), found {found}.")
    return fields


def _read_parquet(path: Path, tally: Tally) -> Iterator[Located]:
    with open_file(path) as file:
        try:
            batches = pq.ParquetFile(file).iter_batches(batch_size=PARQUET_BATCH_ROWS)
        except _PARQUET_FAULTS as error:
            raise _parquet_error(path, error) from error
        number = 0
        while True:
            try:
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            except _PARQUET_FAULTS as error:
                raise _parquet_error(path, error) from error
            if batch is None:
                return
            for row in rows:
                number += 1
                yield Located(f"{path}:row {number}", row)


# What pyarrow raises on damaged files, found by fuzzing; its own errors are ValueErrors, OSErrors and so on in part.
_PARQUET_FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


def _parquet_error(path: Path, error: BaseException) -> DataError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataError(f"{path}: expected a whole .parquet file, found a damaged one ({reason}). Fetch or write it anew.")
