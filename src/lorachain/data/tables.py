"""One reader of tables for the whole package: .jsonl, .json, .csv, .tsv, .parquet, .xlsx and .ods.

Files are untrusted: whatever the bytes, a reader gives normalized rows or a `DataError` that names the file. It keeps
one line (or one batch of a .parquet, or one table of a workbook) in memory at a time.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from lorachain.data.columns import renamed
from lorachain.data.encodings import refuse_utf8
from lorachain.data.json_records import records_of
from lorachain.data.normalization import normalize_row
from lorachain.data.parquet import read_parquet
from lorachain.data.read_options import ReadOptions, check_effect
from lorachain.data.rows import Located, RawRow, Tally, header_problem, shorten
from lorachain.data.text_file import open_file
from lorachain.data.text_io import MAX_LINE_BYTES, encoding_hint, read_lines
from lorachain.data.workbook import WORKBOOK_SUFFIXES, read_workbook
from lorachain.errors import DataError

_JSON_SUFFIXES = (".jsonl", ".json")
TABLE_SUFFIXES = (*_JSON_SUFFIXES, ".csv", ".tsv", ".parquet", *WORKBOOK_SUFFIXES)
WHOLE_SUFFIXES = (".json", *WORKBOOK_SUFFIXES)
"""Of files that are read at once."""
MAX_JSON_BYTES = 64 * 2**20
"""A .json is parsed at once and takes up to 25 times its size in memory (a list of empty lists); larger data belongs
in a .jsonl, which is read line by line."""
DEFAULTS = ReadOptions()


def read_rows(path: Path, tally: Tally, options: ReadOptions = DEFAULTS) -> Iterator[Located]:
    """The rows of one file in order, streamed and normalized (`normalize_row`); values keep the types of the format.

    What is not a row goes to `tally.refuse`; counting the good ones is left to the caller, who validates them.

    Raises:
        DataError: the file is missing, empty, not a regular file, of an unknown type, too large, in a wrong encoding,
            or damaged throughout; an option has no effect on its format; a column of `options` does not exist; or a row
            is bad and bad rows are not skipped.
    """
    suffix = path.suffix.casefold()
    readers: dict[str, Callable[[Path, Tally, ReadOptions], Iterator[RawRow]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_delimited,
        ".tsv": _read_delimited,
        ".parquet": _read_parquet,
        ".xlsx": _read_workbook,
        ".ods": _read_workbook,
    }
    reader = readers.get(suffix)
    if reader is None:
        hint = " Save it as .xlsx." if suffix in (".xls", ".xlsm", ".xlsb", ".cell") else ""
        raise DataError(f"{path}: expected one of {', '.join(TABLE_SUFFIXES)}, found {suffix or 'no suffix'}.{hint}")
    check_effect(options, path)
    rows = (Located(where, number, normalize_row(row)) for where, number, row in reader(path, tally, options))
    if not options.columns:
        return rows
    return renamed(rows, options.columns, str(path), tabular=suffix not in _JSON_SUFFIXES)


def _parse_json(text: str) -> object:
    """Raises ValueError with a short reason; nested 100,000 deep is one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _read_jsonl(path: Path, tally: Tally, options: ReadOptions) -> Iterator[RawRow]:
    for number, text, problem in read_lines(path, options.encoding):
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
                yield RawRow(where, number, row)
            else:
                tally.refuse(where, expected, shorten(row))


def _read_json(path: Path, tally: Tally, options: ReadOptions) -> Iterator[RawRow]:
    expected = 'a list of objects, an object with such a list under "data", or one object'
    encoding = options.encoding or "utf-8"
    if options.encoding:
        refuse_utf8(path, encoding)
    try:
        with open_file(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise DataError(
                f"{path}: a .json over {MAX_JSON_BYTES // 2**20} MiB; save it as .jsonl (one object per line)."
            )
        content = _parse_json(data.decode(encoding).replace("\ufeff", ""))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding == "utf-8" else encoding
        raise DataError(
            f"{path}:{line}: expected {name} text, found byte 0x{data[error.start]:02x}; "
            f"{encoding_hint(path, encoding)}."
        ) from None
    except ValueError as error:
        hint = " One object per line is .jsonl: rename the file." if "Extra data" in str(error) else ""
        raise DataError(f"{path}: expected {expected}, found no valid JSON: {error}.{hint}") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read ({error or 'out of memory'}).") from error
    del data
    rows = records_of(content)
    if rows is None:
        raise DataError(f"{path}: expected {expected}, found {shorten(content)}.")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield RawRow(f"{path}:row {number}", number, row)
        else:
            tally.refuse(f"{path}:row {number}", "an object", shorten(row))


def _read_delimited(path: Path, tally: Tally, options: ReadOptions) -> Iterator[RawRow]:
    # The limit is the csv module's own global; its default of 128 Ki characters is less than a long article.
    csv.field_size_limit(MAX_LINE_BYTES)
    problems: dict[int, str] = {}

    def lines() -> Iterator[str]:
        for number, text, problem in read_lines(path, options.encoding):
            if problem:
                problems[number] = problem
            yield text or "\n"

    delimiter = options.delimiter or ("\t" if path.suffix.casefold() == ".tsv" else _delimiter(path, options))
    kind = {"\t": "tab", ",": "comma", ";": "semicolon"}.get(delimiter, delimiter)
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
        if header is None and start < (options.header or 0):
            continue
        if actual is None and not any(fields):
            continue
        if header is None:
            header = _header(where, expected, fields, actual)
        elif actual is not None:
            tally.refuse(where, expected, actual)
        elif len(fields) != len(header):
            tally.refuse(where, f"{len(header)} fields as in the header", f"{len(fields)}: {shorten(fields)}")
        else:
            yield RawRow(where, start, dict(zip(header, fields, strict=True)))


def _delimiter(path: Path, options: ReadOptions) -> str:
    """A semicolon where the header has one and no comma, as spreadsheets write where the comma is decimal."""
    for number, text, _ in read_lines(path, options.encoding):
        if number >= (options.header or 1) and text.strip():
            return ";" if ";" in text and "," not in text else ","
    return ","


def _header(where: str, expected: str, fields: list[str], actual: str | None) -> list[str]:
    """Nothing can be read without a header, so a bad one is an error even where bad rows are skipped."""
    if actual is None and (problem := header_problem(fields)):
        expected, actual = "a header whose names differ", problem
    if actual is not None:
        raise DataError(f"{where}: expected {expected} (the header), found {actual}.")
    return fields


def _read_parquet(path: Path, tally: Tally, options: ReadOptions) -> Iterator[RawRow]:
    for number, row in enumerate(read_parquet(path), start=1):
        yield RawRow(f"{path}:row {number}", number, row)


def _read_workbook(path: Path, tally: Tally, options: ReadOptions) -> Iterator[RawRow]:
    return read_workbook(path, tally, sheet=options.sheet, header=options.header)
