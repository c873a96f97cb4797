"""Token rows on disk come back as they were written, with what they were made from."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorachain.token_store import StoredPacks, TokenStore, write_token_store
from lorachain.tokens import TokenRow, split_long

FORMS = ("", "term->definition", "reasoned", "direct")
rows_to_write = st.lists(
    st.builds(
        TokenRow,
        st.lists(st.integers(0, 262_143), min_size=1, max_size=12),
        st.integers(1, 12),
        st.integers(0, 2**31 - 1),
        st.sampled_from(FORMS),
    ),
    max_size=600,  # more than two batches of the file
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "rows.arrow"


@given(rows_to_write)
def test_rows_come_back_as_written(path: Path, rows: list[TokenRow]) -> None:
    write_token_store(path, iter(rows))
    store = TokenStore(path)
    assert [store.row(i) for i in range(len(store))] == rows
    assert store.lengths.tolist() == [len(row) for row in rows]
    assert store.supervised_from.tolist() == [row.supervised_from for row in rows]
    assert store.records.tolist() == [row.record for row in rows]
    assert store.forms == [row.form for row in rows]


def test_the_key_is_a_hash_of_the_ids_alone(path: Path) -> None:
    write_token_store(path, [TokenRow([2, 7, 8], 1), TokenRow([2, 7, 8], 2, 5, "direct"), TokenRow([2, 8, 7], 1)])
    first, same, other = TokenStore(path).keys.tolist()
    assert first == same == 0x649469E2D783CCC8
    assert first != other


def test_the_columns_and_their_types(path: Path) -> None:
    write_token_store(path, [TokenRow([2, 7], 1)])
    schema = pa.ipc.open_file(pa.memory_map(str(path))).schema
    assert {field.name: str(field.type) for field in schema} == {
        "ids": "list<item: int32>",
        "supervised_from": "int32",
        "key": "uint64",
        "record": "int32",
        "form": "string",
    }


def test_a_piece_of_a_document_is_what_split_long_cuts(path: Path) -> None:
    document = TokenRow([2, *range(10, 33), 1], 1, 9, "")
    write_token_store(path, [TokenRow([2, 3], 1), document])
    store = TokenStore(path)
    assert [store.piece(1, start, 7) for start in range(0, len(document) - 1, 7)] == split_long(document, 8)


def test_a_pack_is_read_when_it_is_asked_for() -> None:
    rows = [TokenRow([2, *range(length)], 1) for length in (3, 5, 2)]
    read: list[int] = []

    def item(number: int) -> TokenRow:
        read.append(number)
        return rows[number]

    packs = StoredPacks([[0, 2], [1]], [len(row) for row in rows], item)
    assert (len(packs), packs.lengths, read) == (2, [7, 6], [])
    assert packs[0] == [rows[0], rows[2]]
    assert read == [0, 2]
