"""A .parquet of a few hundred bytes never becomes gigabytes: its sizes are checked before decoding and on the way."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorachain.data import parquet
from lorachain.data.exam import load_exam
from lorachain.data.parquet import count_parquet_rows, read_parquet
from lorachain.data.parquet_footer import DICTIONARY_PAGE, PageSizes, read_footer, read_page_sizes
from lorachain.data.plain_text import stream_plain_text
from lorachain.errors import DataError

OPTIONS = ["가", "나", "다", "라", "마"]


def write(path: Path, table: pa.Table, **options: object) -> Path:
    """One row group, pages and dictionaries of any size."""
    pq.write_table(
        table, path, compression="zstd", store_schema=False, write_statistics=False, row_group_size=2**30,
        dictionary_pagesize_limit=2**30, data_page_size=2**30, **options,
    )  # fmt: skip
    return path


def repeated(text: str, count: int) -> pa.Array:
    """The text `count` times, written once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The decoded bytes of every batch that is read."""
    sizes: list[int] = []
    next_batch = parquet._next_batch

    def recording(path: Path, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        batch = next_batch(path, batches)
        sizes.append(0 if batch is None else batch.nbytes)
        return batch

    monkeypatch.setattr(parquet, "_next_batch", recording)
    return sizes


def test_a_repeated_text_is_decoded_in_slices_and_then_refused(tmp_path: Path, batch_sizes: list[int]) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": repeated("가" * 100_000, 1000)}))  # 300 MB of text
    assert path.stat().st_size < 2000
    with pytest.raises(DataError, match=r"a\.parquet: [\d,]+ bytes expand to [\d,]+ and more"):
        list(stream_plain_text([str(path)]))
    assert 0 < max(batch_sizes) <= parquet.BATCH_BYTES
    assert sum(batch_sizes) <= parquet.MAX_EXPANDED_BYTES + parquet.BATCH_BYTES


def test_ordinary_tables_are_decoded_in_slices_too(tmp_path: Path, batch_sizes: list[int]) -> None:
    texts = ["".join(np.random.default_rng(i).choice(list("가나다라 "), 30_000)) for i in range(300)]
    path = write(tmp_path / "a.parquet", pa.table({"text": texts, "license": repeated("CC0", 300)}))
    assert [document.text for document in stream_plain_text([str(path)])] == [text.strip() for text in texts]
    assert sum(batch_sizes) > parquet.BATCH_BYTES
    assert max(batch_sizes) <= parquet.BATCH_BYTES


def test_a_column_that_decompresses_to_too_much(tmp_path: Path, batch_sizes: list[int]) -> None:
    column = pa.array(["가" * 5_000_000] * 4)
    path = write(tmp_path / "a.parquet", pa.table({"text": column}), use_dictionary=False)
    with pytest.raises(DataError, match=r"a\.parquet: column text expands from [\d,]+ to 60,[\d,]+ bytes"):
        list(read_parquet(path))
    assert batch_sizes == []


def test_a_large_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_VALUE_BYTES", 1000)
    path = write(tmp_path / "a.parquet", pa.table({"text": ["".join(map(chr, range(0xAC00, 0xAC00 + 400)))]}))
    with pytest.raises(DataError, match=r"column text has a dictionary of 1,2\d\d bytes"):
        list(read_parquet(path))


def test_more_rows_than_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": pa.nulls(3_000_000, pa.string())}))
    for read in (lambda p: next(read_parquet(p)), count_parquet_rows):
        with pytest.raises(DataError, match=r"a\.parquet: 3,000,000 rows in [\d,]+ bytes"):
            read(path)


def test_a_list_of_millions_in_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = pa.ListArray.from_arrays(pa.array([0, 2_000_000], pa.int32()), pa.array(np.zeros(2_000_000, np.int64)))
    path = write(tmp_path / "a.parquet", pa.table({"text": ["하나"], "other": numbers}))
    assert list(map(str, read_parquet(path))) == ["{'text': '하나', 'other': list<element: int64>}"]
    path = write(tmp_path / "b.parquet", pa.table({"question": ["하나"], "options": numbers}))
    with pytest.raises(DataError, match=r"b\.parquet: column options has a field of up to 32,000,000 bytes"):
        list(read_parquet(path))
    monkeypatch.setattr(parquet, "MAX_NESTED_VALUES", 1_000_000)
    with pytest.raises(DataError, match=r"column options\.list\.element has 2,000,000 values in one row group"):
        list(read_parquet(path))


def test_a_repeated_option(tmp_path: Path) -> None:
    options = pa.ListArray.from_arrays(pa.array(range(0, 501, 5), pa.int32()), repeated("가" * 100_000, 500))
    path = write(tmp_path / "a.parquet", pa.table({"question": ["문제"] * 100, "options": options}))
    with pytest.raises(DataError, match=r"column options has a field of up to 1,500,000 bytes"):
        list(read_parquet(path))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("options", pa.array([OPTIONS])),
        ("choices", pa.array([OPTIONS], pa.large_list(pa.large_string()))),
        ("options", pa.array([dict(zip("ABCDE", OPTIONS, strict=True))])),
        ("Options", pa.array([dict(zip("ABCDE", OPTIONS, strict=True))])),
        ("choices", pa.array([{"text": OPTIONS, "label": list("ABCDE")}])),
        ("options", pa.array([[{"key": k, "value": v} for k, v in zip("ABCDE", OPTIONS, strict=True)]])),
    ],
)
def test_nested_options_are_read(tmp_path: Path, name: str, options: pa.Array) -> None:
    pq.write_table(pa.table({"question": ["문제?"], name: options, "answer": [2]}), tmp_path / "a.parquet")
    (question,) = load_exam([str(tmp_path / "a.parquet")], "train").questions
    assert (list(question.options), question.answer) == (OPTIONS, 1)


def test_columns_that_are_not_decoded_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [["하나", "둘"]]}), path)
    with pytest.raises(DataError, match=r"a\.parquet:row 1: expected text, found text: .*list<element: string>"):
        list(stream_plain_text([str(path)]))
    assert len(list(read_parquet(path))) == 1
    options = pa.array([[("A", "가")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"question": ["문제?"], "options": options}), path)
    with pytest.raises(DataError, match=r"a\.parquet:row 1: .* map<string, string.*> as options where five"):
        load_exam([str(path)], "train")


def test_the_footer_states_the_sizes(tmp_path: Path) -> None:
    """Compared with pyarrow's own reading of undamaged files."""
    options = [dict(zip("ABCDE", OPTIONS, strict=True))] * 50
    table = pa.table({"text": [f"문서 {i}" for i in range(50)], "options": options, "n": list(range(50))})
    table = table.replace_schema_metadata({"key": "값" * 99})
    for settings in ({}, {"use_dictionary": False}, {"data_page_version": "2.0", "compression": "gzip"}):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=20, **settings)
        metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
        with (tmp_path / "a.parquet").open("rb") as file:
            groups = read_footer(file)
            assert [group.rows for group in groups] == [20, 20, 10]
            for index, group in enumerate(groups):
                assert group.decompressed == metadata.row_group(index).total_byte_size
                for number, column in enumerate(group.columns):
                    theirs = metadata.row_group(index).column(number)
                    assert ".".join(column.path) == theirs.path_in_schema
                    assert (column.values, column.decompressed, column.compressed) == (
                        theirs.num_values, theirs.total_uncompressed_size, theirs.total_compressed_size,
                    )  # fmt: skip
                    page = read_page_sizes(file, column.start)
                    assert page is not None
                    assert (page.kind == DICTIONARY_PAGE) == theirs.has_dictionary_page


def test_bytes_that_are_no_page_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": ["하나", "둘"]}))
    with path.open("rb") as file:
        assert read_page_sizes(file, 4) == PageSizes(DICTIONARY_PAGE, len("하나둘".encode()) + 2 * 4, 26)
        for start in (0, path.stat().st_size, 2**70):
            assert read_page_sizes(file, start) is None


def test_every_damaged_byte_of_a_footer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["하나", "둘"], "options": [OPTIONS] * 2}), path)
    data = path.read_bytes()
    refused = 0
    for position in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)):
        for byte in (0x00, 0x15, 0x19, 0x3C, 0xFF):
            path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
            try:
                list(read_parquet(path))
            except DataError:
                refused += 1
    assert refused > 1000


def test_pyarrow_is_not_asked_for_the_metadata_of_columns() -> None:
    """`FileMetaData.row_group(i).column(j)` of pyarrow 26 ends the process on some damaged files."""
    for path in Path(parquet.__file__).parent.glob("*.py"):
        assert ".row_group(" not in path.read_text(encoding="utf-8")
