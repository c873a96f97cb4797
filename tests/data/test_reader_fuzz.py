"""Any bytes in any supported file give records, or a DataError that names the file. Nothing else, ever."""

import io
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.rows import TABLE_SUFFIXES
from lorachain.errors import DataError

ROW = {
    "term": "간염", "definition": "간의 염증", "english": "hepatitis", "code": "K75.9", "text": "문서",
    "subject": "doctor", "year": 2021, "period": 1, "q_number": 1, "question": "질문은?", "A": "가", "B": "나",
    "C": "다", "D": "라", "E": "마", "answer": 1, "cot": "",
}  # fmt: skip
KEYS = sorted(ROW)
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
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, suffix: str) -> bytes:
    """A good file with bytes cut out, put in and changed."""
    data = bytearray(SEEDS[suffix])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 8))
        data[place : place + length] = draw(st.binary(max_size=8))
    return bytes(data)


def outcome(load: Callable[[], Sequence[object]]) -> tuple[Sequence[object], str]:
    try:
        return load(), ""
    except DataError as error:
        return [], str(error)


def check(path: Path, content: bytes) -> None:
    """Each loader, strict and lenient, gives records or one DataError that names the file."""
    path.write_bytes(content)
    for skip in (False, True):
        loaders = [lambda skip=skip: list(stream_plain_text([str(path)], skip_bad_rows=skip))]
        if path.suffix in TABLE_SUFFIXES:
            loaders.append(lambda skip=skip: load_dictionary([str(path)], skip_bad_rows=skip).entries)
            loaders.append(lambda skip=skip: load_exam([str(path)], "train", skip_bad_rows=skip).questions)
        for load in loaders:
            records, message = outcome(load)
            assert records or path.name in message
            repr(records).encode()  # no half surrogate pairs reach a tokenizer
            if "expected" in message and not skip and path.suffix in (".jsonl", ".csv", ".tsv", ".txt"):
                assert re.search(rf"{re.escape(path.name)}:\d+: expected", message)


@pytest.mark.parametrize("suffix", sorted(SEEDS))
@FUZZ
@given(data=st.data())
def test_any_bytes(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    check(tmp_path / f"fuzz{suffix}", data.draw(st.binary(max_size=200) | damaged(suffix)))


@FUZZ
@given(value=json_values, suffix=st.sampled_from([".json", ".jsonl"]))
def test_any_json(tmp_path: Path, value: object, suffix: str) -> None:
    check(tmp_path / f"fuzz{suffix}", json.dumps(value).encode())


@FUZZ
@given(rows=st.lists(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6), max_size=4))
def test_any_rows(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    lines = "".join(json.dumps({**ROW, **row}) + "\n" for row in rows)
    check(tmp_path / "fuzz.jsonl", lines.encode())


@FUZZ
@given(text=st.text(st.sampled_from('a,"\n\r\t가'), max_size=60))
def test_any_csv(tmp_path: Path, text: str) -> None:
    with warnings.catch_warnings(action="error"):
        check(tmp_path / "fuzz.csv", ("text\n" + text).encode())
