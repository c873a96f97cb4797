"""Token rows on disk: written once as Arrow and memory-mapped, so that a corpus can exceed memory."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lorachain.tokens import TokenRow

_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("supervised_from", pa.int32()),
        ("key", pa.uint64()),
        ("record", pa.int32()),
        ("form", pa.string()),
    ]
)
_ROWS_PER_BATCH = 256


class TokenStore:
    """Rows by index, read from a memory-mapped Arrow file.

    `lengths` (n,), `supervised_from` (n,), `keys` (n,) and `records` (n,) are in memory. A key is a hash of the row's
    ids, which ranks documents for the held-out slice independently of their order. `records` and `forms` say which
    record a row was made from, and in which form.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._ids = table.column("ids")
        self._form = table.column("form")
        lengths = [pa.compute.list_value_length(chunk).to_numpy() for chunk in self._ids.chunks]
        self.lengths: np.ndarray[tuple[int], np.dtype[np.int32]] = np.concatenate(lengths)
        self.supervised_from: np.ndarray[tuple[int], np.dtype[np.int32]] = table.column("supervised_from").to_numpy()
        self.keys: np.ndarray[tuple[int], np.dtype[np.uint64]] = table.column("key").to_numpy()
        self.records: np.ndarray[tuple[int], np.dtype[np.int32]] = table.column("record").to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def forms(self) -> list[str]:
        """The form of each row; equal forms are one string in memory."""
        encoded = self._form.combine_chunks().dictionary_encode()
        names: list[str] = encoded.dictionary.to_pylist()
        return [names[code] for code in encoded.indices.to_pylist()]

    def row(self, index: int) -> TokenRow:
        """The complete row, BOS first."""
        return self._row(index, self._ids[index].values.to_pylist(), int(self.supervised_from[index]))

    def piece(self, index: int, start: int, count: int) -> TokenRow:
        """BOS and at most `count` ids of a document's body from `start` on, cut as `split_long` cuts it; only these
        ids are read."""
        ids = self._ids[index].values
        return self._row(index, [ids[0].as_py(), *ids.slice(1 + start, count).to_pylist()], 1)

    def _row(self, index: int, ids: list[int], supervised_from: int) -> TokenRow:
        return TokenRow(ids, supervised_from, int(self.records[index]), self._form[index].as_py())


class StoredPacks(Sequence[list[TokenRow]]):
    """Packs whose rows are on disk: a pack is read when its step comes.

    Args:
        groups: item numbers of each pack.
        item_lengths: tokens of each item.
        read: returns an item by its number.
    """

    def __init__(
        self, groups: Sequence[Sequence[int]], item_lengths: Sequence[int], read: Callable[[int], TokenRow]
    ) -> None:
        self._groups = groups
        self._read = read
        self.lengths = [sum(item_lengths[item] for item in group) for group in groups]
        """Tokens of each pack."""

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: Any) -> Any:
        return [self._read(item) for item in self._groups[index]]


def write_token_store(path: Path, rows: Iterable[TokenRow]) -> None:
    """Streams rows into an Arrow file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        batch: list[TokenRow] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _ROWS_PER_BATCH:
                writer.write_batch(_batch(batch))
                batch = []
        writer.write_batch(_batch(batch))


def _batch(rows: list[TokenRow]) -> pa.RecordBatch:
    ids = [np.array(row.ids, np.int32) for row in rows]
    keys = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big") for row in ids]
    columns = [
        pa.array(ids, pa.list_(pa.int32())),
        pa.array([row.supervised_from for row in rows], pa.int32()),
        pa.array(keys, pa.uint64()),
        pa.array([row.record for row in rows], pa.int32()),
        pa.array([row.form for row in rows], pa.string()),
    ]
    return pa.record_batch(columns, schema=_SCHEMA)
