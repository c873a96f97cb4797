"""Every format gives the same rows; every broken file gives one message that names it."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorachain.data import parquet, tables, text_io
from lorachain.data.rows import Row, Tally, first_of, text_of
from lorachain.data.tables import read_rows
from lorachain.errors import DataError
from workbook_making import write_workbook

ROWS: list[Row] = [{"term": "콜레라", "n": "1"}, {"term": 'a "quoted", one', "n": "2"}, {"term": "두\n줄", "n": "3"}]


def write(path: Path, content: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(content), encoding="utf-8")
    elif path.suffix in (".xlsx", ".ods"):
        write_workbook(path, {"표": [list(content[0]), *(list(row.values()) for row in content)]})
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        cells = [[*content[0]], *([*row.values()] for row in content)]
        quoted = (mark.join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in cells)
        path.write_text("\r\n".join(quoted), encoding="utf-8-sig", newline="")
    return path


def read(path: Path, *, skip: bool = False) -> tuple[list[Row], Tally]:
    tally = Tally(skip)
    return [located.row for located in read_rows(path, tally)], tally


@pytest.mark.parametrize("suffix", tables.TABLE_SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"a{suffix}", ROWS))[0] == ROWS


def test_json_rows_under_data_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "a.JSON"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"version": 1, "data": ROWS}).encode())
    assert read(path)[0] == ROWS


def test_jsonl_bom_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}')
    located = list(read_rows(path, Tally()))
    assert [(item.where, item.row) for item in located] == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]


def test_csv_location_is_the_first_line_of_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"x\ny",1\nz,2\n', encoding="utf-8")
    assert [item.where for item in read_rows(path, Tally())] == [f"{path}:2", f"{path}:4"]


BAD_LINES = {
    "cut.jsonl": (b'{"a": 1}\n{"a": \n{"a": 3}\n', 2, "one JSON object per line"),
    "list.jsonl": (b'{"a": 1}\n[1]\n{"a": 3}\n', 2, "one JSON object per line"),
    "cp949.jsonl": (b'{"a": 1}\n' + '{"a": "한글"}\n'.encode("cp949") + b'{"a": 3}\n', 2, "UTF-8"),
    "nul.jsonl": (b'{"a": 1}\n{"a": "\0"}\n{"a": 3}\n', 2, "NUL"),
    "deep.jsonl": (b'{"a": 1}\n' + b"[" * 100_000 + b'\n{"a": 3}\n', 2, "nested too deeply"),
    "deep_objects.jsonl": (b'{"a": 1}\n' + b'{"a":' * 100_000 + b'\n{"a": 3}\n', 2, "nested too deeply"),
    "digits.jsonl": (b'{"a": 1}\n{"a": ' + b"9" * 10_000 + b'}\n{"a": 3}\n', 2, "one JSON object per line"),
    "more.csv": (b"a\n1\n1,2\n3\n", 3, "1 fields as in the header"),
    "cp949.csv": (b"a\n1\n" + "한글\n".encode("cp949") + b"3\n", 3, "save the file as UTF-8"),
    "cp949_quoted.csv": (b'a\n1\n"x\n' + "한글".encode("cp949") + b'\ny"\n3\n', 4, "save the file as UTF-8"),
    "quotes.csv": (b'a\n1\n"x"y\n3\n', 3, "expected after"),
    "fewer.tsv": (b"a\tb\n1\t1\n2\n3\t3\n", 3, "2 fields as in the header"),
    "number.json": (b'[{"a": 1}, 2, {"a": 3}]', "row 2", "an object"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, name: str) -> None:
    content, line, expected = BAD_LINES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(path)
    assert f"{path}:{line}: expected" in str(raised.value)
    assert expected in str(raised.value)
    assert "--skip-bad-rows" in str(raised.value)
    good, tally = read(path, skip=True)
    assert len(good) == 2
    assert tally.bad_rows == 1


def test_the_first_of_several_bad_rows_is_the_one_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n[2]\n{"a": 3}\nfour\n[5]\n', encoding="utf-8")
    good, tally = read(path, skip=True)
    assert (len(good), tally.bad_rows) == (2, 3)
    assert tally.first_bad == f"{path}:2: expected one JSON object per line, found [2]."
    assert read(write(tmp_path / "b.jsonl", ROWS), skip=True)[1].first_bad is None


BAD_FILES = {
    "empty.jsonl": (b"", "empty"),
    "empty.parquet": (b"", "empty"),
    "a.xlsx": (b"PK", "not a workbook"),
    "a.doc": (b"PK", "found .doc"),
    "cut.json": (b'[{"a": 1}', "no valid JSON"),
    "lines.json": (b'{"a": 1}\n{"a": 2}\n', "rename the file"),
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "object.json": (b'{"rows": []}', '"data"'),
    "cp949.json": ('[\n{"a": "한글"}]'.encode("cp949"), "cp949.json:2: expected UTF-8"),
    "twice.csv": (b"a,a\n1,2\n", "header"),
    "header.csv": ("가,나\n1,2\n".encode("cp949"), "(the header)"),
    "not.parquet": (b"PAR1 this is no parquet PAR1", "damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_broken_file_is_named_even_where_bad_rows_are_skipped(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(path, skip=True)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_truncated_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS * 100)
    complete = path.read_bytes()
    for size in range(1, len(complete), 97):
        path.write_bytes(complete[:size])
        with pytest.raises(DataError, match="damaged"):
            read(path)


def test_parquet_is_read_by_batches_with_row_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 2)
    path = write(tmp_path / "a.parquet", ROWS)
    assert [item.where for item in read_rows(path, Tally())] == [f"{path}:row {n}" for n in (1, 2, 3)]


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_io, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 50)
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 100)
    long = {"a": "x" * 300}
    path = write(tmp_path / "a.jsonl", [{"a": "1"}, long, {"a": "3"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: .* a line longer"):
        read(path)
    assert read(path, skip=True)[0] == [{"a": "1"}, {"a": "3"}]
    with pytest.raises(DataError, match=r"a\.json: .*save it as \.jsonl"):
        read(write(tmp_path / "a.json", [long]))
    bomb = tmp_path / "a.csv"
    bomb.write_text('a\n"' + "x\n" * 200, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:2: .*field limit"):
        read(bomb)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    directory, loop, pipe = tmp_path / "directory.jsonl", tmp_path / "loop.jsonl", tmp_path / "pipe.jsonl"
    directory.mkdir()
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path, message in [
        (directory, "a directory"),
        (loop, "cannot be read"),
        (pipe, "a pipe"),
        (tmp_path / "absent.jsonl", "No such file"),
        (Path("nul\0.jsonl"), "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read(path)


def test_fields() -> None:
    assert text_of("  콜레라\n") == "콜레라"
    assert text_of(3) == "3"
    assert [text_of(value) for value in (None, float("nan"), "  ")] == [None, None, None]
    others: list[object] = [["a"], {}, True, b"a", "\ud800"]
    for value in others:
        with pytest.raises(ValueError, match=r"list|dict|bool|bytes|surrogate"):
            text_of(value)
    assert first_of({" Term ": "", "KO": "가"}, ("term", "ko")) == "가"
