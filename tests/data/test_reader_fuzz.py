"""Any bytes in any supported file give normalized records, or a DataError that names the file. Nothing else, ever."""

import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorachain.data.dictionary import load_dictionary
from lorachain.data.encodings import ENCODINGS
from lorachain.data.exam import load_exam
from lorachain.data.instruct import load_instructions
from lorachain.data.normalization import NULL_MARKERS, OPTION_NULL_MARKERS, ZERO_WIDTH, limit_marks
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.read_options import ReadOptions, options_of, parse_options
from lorachain.data.tables import TABLE_SUFFIXES
from lorachain.errors import DataError
from lorachain.records import ExamQuestion, Instruction, PlainText, Term

ROW = {
    "term": "간염", "definition": "간의 염증", "english": "hepatitis", "code": "K75.9", "text": "문서",
    "subject": "doctor", "year": 2021, "period": 1, "q_number": 1, "question": "질문은?", "A": "가", "B": "나",
    "C": "다", "D": "라", "E": "마", "answer": 1, "cot": "",
}  # fmt: skip
ALIASES = ("options", "choices", "표제어", "뜻", "보기1", "정답", "해설", "exam", "writer", "data")
CHAT = ("messages", "conversations", "paragraph", "instruction", "input", "output")
KEYS = sorted([*ROW, *ALIASES, *CHAT])
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{k: str(v) for k, v in ROW.items()}] * 3), buffer)
    return buffer.getvalue()


TEXT = json.dumps(ROW, ensure_ascii=False)
TABLE = ",".join(ROW) + "\n" + ",".join(map(str, ROW.values())) + "\n"
SEEDS = {
    ".jsonl": f"{TEXT}\n{TEXT}\n".encode(),
    ".json": f"[{TEXT}, {TEXT}]".encode(),
    ".csv": TABLE.encode(),
    ".tsv": TABLE.replace(",", "\t").encode(),
    ".parquet": _parquet(),
    ".txt": "문서\n\n둘째 문서\n".encode(),
}
# What real files contain beside plain text: odd characters, missing values as text, numbers as text.
PIECES = [
    *("\ufeff", "\u200b", "\u2060", "\u200d", "\r\n", "\r", "\u0301", "\u0316" * 40),
    *("\u1100\u1161", "가\u11a8", "A", " ", "\uf914"),
]
odd_texts = (
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
    | st.sampled_from(sorted(NULL_MARKERS))
    | st.sampled_from(["3.0", "2022.0", "B", "NA", "없음"])
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | odd_texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, min_size=5, max_size=5)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.fixed_dictionaries(dict.fromkeys("ABCDE", inner))
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, suffix: str) -> bytes:
    """A good file with bytes cut out, inserted and changed."""
    data = bytearray(SEEDS[suffix])
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 8))
        data[position : position + length] = draw(st.binary(max_size=8))
    return bytes(data)


@st.composite
def written_otherwise(draw: st.DrawFn, suffix: str) -> bytes:
    """A good text file as other programs write it: decomposed, with other line ends, marks and missing values."""
    text = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), SEEDS[suffix].decode())
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(text)))
        text = text[:position] + draw(st.sampled_from(["\ufeff", "\u200b", "\u2060", "\n\ufeff"])) + text[position:]
    if draw(st.booleans()):
        text = text.replace(draw(st.sampled_from(["염증", "hepatitis", "2021", "doctor", "가"])), draw(odd_texts))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n", "\r"]))).encode()


def outcome(load: Callable[[], Sequence[object]]) -> tuple[Sequence[object], str]:
    try:
        return load(), ""
    except DataError as error:
        return [], str(error)


def texts_of(record: object) -> Iterator[tuple[str, bool]]:
    """The texts of a record that were read from fields, and whether each is an option."""
    if isinstance(record, PlainText):
        yield record.text, False
    elif isinstance(record, Instruction):
        yield record.completion, False
        yield from ((text, False) for exchange in record.later for text in exchange)
    elif isinstance(record, Term):
        yield from ((text, False) for text in astuple(record) if text is not None)
    elif isinstance(record, ExamQuestion):
        yield from ((text, True) for text in record.options)
        yield from ((text, False) for text in (record.question, record.subject, record.reasoning) if text is not None)


def check_normalized(records: Sequence[object], *, markers: bool) -> None:
    for text, is_option in (pair for record in records for pair in texts_of(record)):
        assert text == text.strip() != ""
        assert not set(text) & {"\r", *ZERO_WIDTH}
        assert limit_marks(text) != text or unicodedata.is_normalized("NFC", text)
        assert not markers or text not in (OPTION_NULL_MARKERS if is_option else NULL_MARKERS)


def documents(path: Path, skip: bool) -> Sequence[object]:
    return list(stream_plain_text([str(path)], skip_bad_rows=skip))


def entries(path: Path, skip: bool) -> Sequence[object]:
    return load_dictionary([str(path)], skip_bad_rows=skip).entries


def instructions(path: Path, skip: bool) -> Sequence[object]:
    return load_instructions([str(path)], skip_bad_rows=skip).instructions


def questions(path: Path, skip: bool) -> Sequence[object]:
    return load_exam([str(path)], "train", skip_bad_rows=skip).questions


def check(path: Path, content: bytes) -> None:
    """Each loader, strict and lenient, gives normalized records or one DataError that names the file."""
    path.write_bytes(content)
    for skip in (False, True):
        loaders: list[Callable[[], Sequence[object]]] = [partial(documents, path, skip)]
        if path.suffix in TABLE_SUFFIXES:
            loaders += [partial(load, path, skip) for load in (entries, questions, instructions)]
        for load in loaders:
            records, message = outcome(load)
            assert records or path.name in message
            repr(records).encode()  # no half surrogate pairs reach a tokenizer
            check_normalized(records, markers=path.suffix != ".txt")
            if "expected" in message and not skip and path.suffix in (".jsonl", ".csv", ".tsv", ".txt"):
                assert re.search(rf"{re.escape(path.name)}:\d+: expected", message)


@pytest.mark.parametrize("suffix", sorted(SEEDS))
@FUZZ
@given(data=st.data())
def test_any_bytes(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    check(tmp_path / f"fuzz{suffix}", data.draw(st.binary(max_size=200) | damaged(suffix)))


@pytest.mark.parametrize("suffix", sorted(SEEDS.keys() - {".parquet"}))
@FUZZ
@given(data=st.data())
def test_any_way_of_writing_text(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    check(tmp_path / f"fuzz{suffix}", data.draw(written_otherwise(suffix)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\u200b"])
@pytest.mark.parametrize("suffix", sorted(SEEDS.keys() - {".parquet"}))
def test_every_way_of_writing_a_file_gives_the_same_records(
    tmp_path: Path, suffix: str, mark: str, form: Any, end: str
) -> None:
    """`mark` at the start of every line, as where files were joined; JSON allows it nowhere but in its texts."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    name = f"fuzz{suffix}"
    (tmp_path / "plain" / name).write_bytes(SEEDS[suffix])
    lines = unicodedata.normalize(form, SEEDS[suffix].decode()).splitlines()
    allowed = mark.replace("\u200b", "") if suffix == ".json" else mark
    (tmp_path / "other" / name).write_bytes("".join(f"{allowed}{line}{end}" for line in lines).encode())

    def records(directory: str) -> list[object]:
        path = str(tmp_path / directory / name)
        loaded: list[object] = [d.text for d in stream_plain_text([path]) if isinstance(d, PlainText)]
        if suffix in TABLE_SUFFIXES:
            loaded += load_dictionary([path]).entries
            loaded += load_exam([path], "train").questions
        return loaded

    assert records("other") == records("plain")
    assert len(records("plain")) == {".txt": 1, ".csv": 3, ".tsv": 3}.get(suffix, 4)


@FUZZ
@given(value=json_values, suffix=st.sampled_from([".json", ".jsonl"]))
def test_any_json(tmp_path: Path, value: object, suffix: str) -> None:
    check(tmp_path / f"fuzz{suffix}", json.dumps(value).encode())


@FUZZ
@given(rows=st.lists(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6), max_size=4))
def test_any_rows(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    lines = "".join(json.dumps({**ROW, **row}) + "\n" for row in rows)
    check(tmp_path / "fuzz.jsonl", lines.encode())


ROLES = st.sampled_from(["user", "assistant", "human", "gpt", "system", "tool", "", None, 1])


@FUZZ
@given(
    turns=st.lists(
        st.fixed_dictionaries({"role": ROLES, "content": st.text(min_size=1, max_size=8) | odd_texts | json_values})
        | json_values,
        max_size=9,
    ),
    regular=st.booleans(),
)
def test_any_conversation(tmp_path: Path, turns: list[Any], regular: bool) -> None:
    if regular:
        turns = [{**turn, "role": ("user", "assistant")[i % 2]} for i, turn in enumerate(turns) if type(turn) is dict]
    check(tmp_path / "fuzz.jsonl", (json.dumps({"messages": turns}) + "\n").encode())


@FUZZ
@given(text=st.text(st.sampled_from('a,"\n\r\t가\ufeff\u200b\u1100\u1161'), max_size=60))
def test_any_csv(tmp_path: Path, text: str) -> None:
    with warnings.catch_warnings(action="error"):
        check(tmp_path / "fuzz.csv", ("text\n" + text).encode())


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("suffix", sorted(SEEDS.keys() - {".parquet"}))
@FUZZ
@given(data=st.data())
def test_any_bytes_in_any_encoding(tmp_path: Path, suffix: str, encoding: str, data: st.DataObject) -> None:
    path = tmp_path / f"fuzz{suffix}"
    content = bytearray(SEEDS[suffix].decode().encode(encoding))
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(content)))
        content[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    source = f"{path}#encoding={encoding}"
    for skip in (False, True):
        records, message = outcome(lambda: list(stream_plain_text([source], skip_bad_rows=skip)))  # noqa: B023
        assert records or path.name in message
        repr(records).encode()


ASKED = "물음\nA. 가\nB. 나\nC. 다\nD. 라\nE. 마"
TURNS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "x"]),
        "from": st.sampled_from(["human", "gpt"]),
        "content": odd_texts
        | st.sampled_from(["물음\nA. 가\nB. 나\nC. 다\nD. 라\nE. 마", "<think>가</think>B", "<think>"]),
        "value": odd_texts,
    },
)


@FUZZ
@given(turns=st.lists(TURNS, max_size=4), name=st.sampled_from(["messages", "conversations"]), row=st.booleans())
def test_any_messages(tmp_path: Path, turns: list[dict[str, str]], name: str, row: bool) -> None:
    check(tmp_path / "fuzz.jsonl", json.dumps({**(ROW if row else {}), name: turns}).encode())


@FUZZ
@given(text=st.text(st.sampled_from("sheet=1,term%2Cencodingcp949#가"), max_size=30))
def test_any_options(text: str) -> None:
    options, _ = outcome(lambda: [parse_options(text, "source")])
    for parsed in options:
        assert parse_options(str(parsed), "source") == parsed


@given(sheet=st.text(min_size=1).filter(lambda text: text == text.strip()), column=st.text(min_size=1))
def test_any_name_of_a_sheet_and_a_column(sheet: str, column: str) -> None:
    given = options_of({"sheet": sheet, "term": column.strip() or "x"}, "source")
    assert isinstance(given, ReadOptions)
    assert parse_options(str(given), "source") == given


pairs = st.lists(odd_texts | st.none(), min_size=2, max_size=2)
numbers = st.lists(st.floats() | st.none(), min_size=2, max_size=2)
option_lists = st.lists(st.lists(odd_texts | st.none(), min_size=4, max_size=6) | st.none(), min_size=2, max_size=2)


@FUZZ
@given(
    columns=st.fixed_dictionaries(
        {"question": pairs, "options": option_lists, "answer": numbers, "year": numbers, "term": pairs,
         "english": pairs, "text": pairs}
    )
)  # fmt: skip
def test_any_parquet_values(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    check(tmp_path / "fuzz.parquet", buffer.getvalue())
