"""A first look at a source finds what the reader would stop at, without reading the source."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorachain.data import preview, tables, text_io
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.preview import PREVIEW_ROWS, SourcePreview, preview_source
from lorachain.data.staleness import Reading
from lorachain.errors import DataError

READERS: dict[Reading, Callable[..., Any]] = {
    "plain text": lambda name, **options: list(stream_plain_text([name], **options)),
    "dictionary": lambda name, **options: load_dictionary([name], **options).entries,
    "exam for training": lambda name, **options: load_exam([name], "train", **options).questions,
    "exam for validation": lambda name, **options: load_exam([name], "dev", **options).questions,
}
QUESTION = {"question": "다음 중 옳은 것은?", **dict.fromkeys("ABCDE", "가"), "answer": 1}


def row(number: int) -> dict[str, object]:
    """A row that every kind of reader takes."""
    entry = {"term": f"용어{number}", "definition": f"{number}번째 뜻", "text": f"문서 {number}"}
    return entry | QUESTION | {"question": f"{number}번째 질문은?"}


def write(path: Path, count: int) -> Path:
    rows = [row(n) for n in range(count)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=64)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        cells = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        path.write_text("".join(mark.join(line) + "\n" for line in cells), encoding="utf-8")
    return path


def outcome(load: Callable[[], object]) -> str:
    try:
        load()
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("reading", READERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("count", [1, PREVIEW_ROWS, 1000])
def test_counts_and_estimates(tmp_path: Path, reading: Reading, suffix: str, count: int) -> None:
    split = "dev" if reading == "exam for validation" else "train"
    path = write(tmp_path / f"{split}{suffix}", count)
    shown = preview_source(str(path), reading)
    assert (shown.name, shown.reading, shown.parts) == (str(path), reading, 1)
    assert shown.exact == (count <= PREVIEW_ROWS or suffix == ".json")
    assert shown.records == pytest.approx(len(READERS[reading](str(path))), rel=0 if shown.exact else 0.02)


def test_every_file_is_looked_at_and_none_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "b.csv", "c.parquet", "d.tsv"):
        write(tmp_path / name, 5000)
    parsed = 0
    read_rows = tables.read_rows

    def counting(*arguments: Any) -> Any:
        nonlocal parsed
        for located in read_rows(*arguments):
            parsed += 1
            yield located

    monkeypatch.setattr(preview, "read_rows", counting)
    shown = preview_source(str(tmp_path), "dictionary")
    assert shown.records == pytest.approx(20_000, rel=0.02)
    assert shown.parts == 4
    assert parsed == 4 * (PREVIEW_ROWS + 1)  # one more to know whether it was the last


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("한 문서\n\n" * 2000, encoding="utf-8")
    assert preview_source(str(tmp_path), "plain text") == SourcePreview(str(tmp_path), "plain text", 1, 1, exact=True)
    (tmp_path / "b.txt").write_text("첫 줄이다\n둘째 줄이다\n\n" * 40_000, encoding="utf-8")
    (tmp_path / "c.txt").write_text(" \n", encoding="utf-8")
    shown = preview_source(str(tmp_path), "plain text")
    assert shown.parts == 3
    assert shown.records == pytest.approx(40_001, rel=0.02)
    with pytest.raises(DataError, match=r"c\.txt: no document with text found"):
        preview_source(str(tmp_path / "c.txt"), "plain text")


BAD: dict[str, tuple[Reading, bytes]] = {
    "cp949.txt": ("plain text", "한글 문서\n".encode("cp949")),
    "utf16.jsonl": ("plain text", '{"text": "x"}\n'.encode("utf-16")),
    "empty.csv": ("dictionary", b""),
    "header.csv": ("dictionary", "이름,내용\n간염,염증\n".encode()),
    "only_header.csv": ("dictionary", b"term,definition\n"),
    "cut.jsonl": ("dictionary", b'{"term": "a", "english": "b"}\n{"term": \n'),
    "damaged.parquet": ("dictionary", b"PAR1 not a parquet PAR1"),
    "train.csv": ("exam for validation", b"question,A,B,C,D,E,answer\nq,a,b,c,d,e,1\n"),
    "dev.csv": ("exam for validation", b"question,A,B,C,D,E,answer\nq,a,b,c,d,e,7\n"),
    "dev.jsonl": ("exam for validation", b'{"stem": "q"}\n'),
    "test.jsonl": ("exam for training", json.dumps(QUESTION).encode()),
    "a.xlsx": ("dictionary", b"PK"),
    "order.jsonl": ("dictionary", b'{"term": "no description"}\n{"term": \n'),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("skip", [False, True])
def test_the_reader_and_the_preview_refuse_alike(tmp_path: Path, name: str, skip: bool) -> None:
    reading, content = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    expected = outcome(lambda: READERS[reading](str(path), skip_bad_rows=skip))
    assert expected or skip
    assert outcome(lambda: preview_source(str(path), reading, skip_bad_rows=skip)) == expected


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    for reading, read in READERS.items():
        name = str(tmp_path / "missing.csv")
        expected = outcome(lambda read=read, name=name: read(name))  # type: ignore[misc]
        assert "neither a path that exists" in expected
        assert outcome(lambda reading=reading, name=name: preview_source(name, reading)) == expected  # type: ignore[misc]


def test_a_few_shot_file_is_looked_at_too(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", 3)
    (tmp_path / "fewshot.jsonl").write_text('{"question": "?"}\n', encoding="utf-8")
    (tmp_path / "test.jsonl").write_bytes(b"\x00\xff")
    with pytest.raises(DataError, match=r"fewshot\.jsonl:1: expected a question"):
        preview_source(str(tmp_path), "exam for validation")
    write(tmp_path / "fewshot.jsonl", 2)
    assert preview_source(str(tmp_path), "exam for validation").records == 3


def test_a_long_file_of_bad_rows_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("not JSON\n" * 5000, encoding="utf-8")
    lines = 0
    read_lines = text_io.read_lines

    def counting(path: Path, encoding: str | None = None) -> Any:
        nonlocal lines
        for line in read_lines(path):
            lines += 1
            yield line

    monkeypatch.setattr("lorachain.data.tables.read_lines", counting)
    assert preview_source(str(path), "dictionary", skip_bad_rows=True).records == 0
    assert lines == PREVIEW_ROWS


@pytest.mark.parametrize("reading", READERS)
def test_the_sample(reading: Reading) -> None:
    shown = preview_source("sample", reading)
    assert shown.records == pytest.approx(len(READERS[reading]("sample")), rel=0.25)
    assert shown.parts == (4 if reading.startswith("exam") else 1)


def test_real_data(real_data: Path) -> None:
    for name, reading, count in [
        ("kormedmcqa", "exam for training", 3401),
        ("kormedmcqa", "exam for validation", 1059),
        ("kcd", "dictionary", 22551),
        ("dictionary", "dictionary", 1781),
        ("plain", "plain text", 2609),
    ]:
        assert preview_source(str(real_data / name), reading).records == pytest.approx(count, rel=0.35)  # type: ignore[arg-type]


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exam with two configurations and a corpus whose page states no counts; reading rows is an error."""
    splits: dict[str | None, dict[str, int | None]] = {
        "doctor": {"train": 4, "dev": 2, "fewshot": 1},
        "nurse": {"train": 3, "dev": 1},
        None: {"train": None},
    }

    def builder(repo: str, config: str | None, *, revision: str | None) -> SimpleNamespace:
        known = {name: SimpleNamespace(num_examples=n) for name, n in splits[config].items() if n is not None}
        return SimpleNamespace(info=SimpleNamespace(splits=known or None))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a preview downloads no rows")

    info = SimpleNamespace(sha="c0ffee", siblings=[])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *a, **k: info)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repo, revision: ["doctor", "nurse"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda repo, config, revision: list(splits[config]))


@pytest.mark.usefixtures("hub")
def test_hub_data_sets_are_resolved_only() -> None:
    assert preview_source("o/exam", "exam for validation").records == 3
    assert preview_source("o/exam", "exam for training") == SourcePreview(
        "o/exam", "exam for training", 2, 7, exact=False
    )
    assert preview_source("o/exam:nurse", "exam for training").records == 3
    assert preview_source("o/corpus", "plain text").records is None


@pytest.mark.usefixtures("hub")
def test_hub_data_sets_without_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda repo, config, revision: ["test"])
    for reading in READERS:
        with pytest.raises(DataError, match=r"no (split train|train split|dev split); found: test"):
            preview_source("o/data", reading)


@pytest.mark.usefixtures("hub")
def test_a_hub_data_set_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    for reading in READERS:
        with pytest.raises(DataError, match="cannot be reached"):
            preview_source("o/data", reading)
