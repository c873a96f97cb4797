"""Tokenised documents on disk: written once as Arrow, memory-mapped ever after, so a corpus may exceed memory."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from lorachain.tokens import TokenRow

_SCHEMA = pa.schema([("ids", pa.list_(pa.int32())), ("key", pa.uint64())])
_ROWS_PER_BATCH = 256


class TokenStore:
    """Plain-text rows by number, read from a memory-mapped Arrow file.

    `lengths` (n,) and `keys` (n,) lie in memory; a key is a hash of the row's ids, which ranks documents for the
    held-out slice whatever their order.
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._ids = table.column("ids")
        lengths = [pa.compute.list_value_length(chunk).to_numpy() for chunk in self._ids.chunks]
        self.lengths: np.ndarray[tuple[int], np.dtype[np.int32]] = np.concatenate(lengths)
        self.keys: np.ndarray[tuple[int], np.dtype[np.uint64]] = table.column("key").to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, index: int) -> TokenRow:
        """All of a document's ids, BOS first; every other id is a target."""
        return TokenRow(self._ids[index].values.to_pylist(), supervised_from=1)


def write_token_store(path: Path, rows: Iterable[TokenRow]) -> None:
    """Streams rows into an Arrow file."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        ids: list[list[int]] = []
        for row in rows:
            ids.append(row.ids)
            if len(ids) == _ROWS_PER_BATCH:
                writer.write_batch(_batch(ids))
                ids = []
        writer.write_batch(_batch(ids))


def _batch(ids: list[list[int]]) -> pa.RecordBatch:
    keys = [
        int.from_bytes(hashlib.blake2b(np.array(row, np.int32).tobytes(), digest_size=8).digest(), "big") for row in ids
    ]
    return pa.record_batch([pa.array(ids, pa.list_(pa.int32())), pa.array(keys, pa.uint64())], schema=_SCHEMA)
