"""Rows of a .parquet file, decoded in slices of bounded size.

Parquet stores a repeated value once: a file of 300 bytes can hold a text of 2 MB in each of a thousand rows, or a list
of 300 million numbers in one. The sizes that the file states are therefore checked before anything is decoded.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorachain.data.columns import MESSAGES_FIELDS
from lorachain.data.parquet_footer import DICTIONARY_PAGE, PageSizes, RowGroupSizes, read_footer, read_page_sizes
from lorachain.data.text_file import open_file
from lorachain.errors import DataError

NESTED_FIELDS = ("options", "choices", *MESSAGES_FIELDS)
"""Columns of lists or objects that are decoded; of others only the type is kept."""
BATCH_ROWS = 1024
BATCH_BYTES = 16 * 2**20
"""Decoded at a time, as far as the file's own figures tell."""
MAX_EXPANDED_BYTES = 256 * 2**20
"""Of a file, where it is more than `_MAX_RATIO` times the file's size."""
MAX_VALUE_BYTES = 64 * 2**20
"""Of one value, as for a line of a text file."""
MAX_NESTED_BYTES = 2**20
"""Of one field of `NESTED_FIELDS`."""
MAX_NESTED_VALUES = 32 * 2**20
"""Of one such column in one row group."""
_MAX_RATIO = 1000
"""Decompressed to compressed bytes: text reaches 3 to 20."""
_MAX_ROWS_PER_BYTE = 16
_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)

# What pyarrow raises on damaged files, found by fuzzing; its own errors are ValueErrors, OSErrors and so on in part.
_FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Undecoded:
    """The value of a column that is not decoded; messages show its repr."""

    type: str

    def __repr__(self) -> str:
        return self.type


def read_parquet(path: Path) -> Iterator[dict[str, object]]:
    """The rows in order.

    Raises:
        DataError: it cannot be opened, is damaged, or expands to sizes that no table of text has.
    """
    with open_file(path) as file:
        parquet = _open(path, file)
        size = _check_rows(path, file, parquet.metadata)
        schema = parquet.schema_arrow
        columns = [field.name for field in schema if _is_decoded(field)]
        others: dict[str, object] = {f.name: Undecoded(str(f.type)) for f in schema if not _is_decoded(f)}
        expanded = 0
        with _damage_named(path):
            groups = read_footer(file)
        for index, group in enumerate(groups):
            with _damage_named(path):
                count = _rows_at_a_time(path, file, group, columns)
                batches = parquet.iter_batches(batch_size=count, row_groups=[index], columns=columns)
            while (batch := _next_batch(path, batches)) is not None:
                expanded += batch.nbytes
                if expanded > max(MAX_EXPANDED_BYTES, _MAX_RATIO * size):
                    raise _absurd(path, f"{size:,} bytes expand to {expanded:,} and more")
                for row in _rows(path, batch):
                    yield row | others


def count_parquet_rows(path: Path) -> int:
    """What the file says of itself. Raises DataError as `read_parquet` does."""
    with open_file(path) as file:
        metadata = _open(path, file).metadata
        _check_rows(path, file, metadata)
        return int(metadata.num_rows)


def _open(path: Path, file: io.BufferedReader) -> pq.ParquetFile:
    with _damage_named(path):
        parquet = pq.ParquetFile(file)
        nested = {field.name for field in parquet.schema_arrow if _is_nested(field) and _is_decoded(field)}
        if not nested:
            return parquet
        # As dictionary arrays, repeated nested texts are held once, until `_next_batch` has checked their sizes.
        leaves = (parquet.schema.column(i).path for i in range(len(parquet.schema)))
        file.seek(0)
        return pq.ParquetFile(file, read_dictionary=[leaf for leaf in leaves if leaf.split(".")[0] in nested])


def _is_nested(field: pa.Field) -> bool:
    return bool(pa.types.is_nested(field.type))


def _is_decoded(field: pa.Field) -> bool:
    return not _is_nested(field) or (field.name.strip().casefold() in NESTED_FIELDS and _is_plain(field.type))


def _is_plain(kind: pa.DataType) -> bool:
    """Lists and objects of values, lists and objects; no maps, unions or the like."""
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    return not pa.types.is_nested(kind)


def _check_rows(path: Path, file: io.BufferedReader, metadata: pq.FileMetaData) -> int:
    """The file's size in bytes."""
    size = os.fstat(file.fileno()).st_size
    if metadata.num_rows > 2**20 + _MAX_ROWS_PER_BYTE * size:
        raise _absurd(path, f"{metadata.num_rows:,} rows in {size:,} bytes")
    return size


def _rows_at_a_time(path: Path, file: io.BufferedReader, group: RowGroupSizes, columns: list[str]) -> int:
    """How many rows of a row group stay below `BATCH_BYTES`, going by its sizes and dictionaries."""
    repeated = 0
    for column in group.columns:
        name, nested = ".".join(column.path), len(column.path) > 1
        if column.path[0] not in columns:
            continue
        first_page = read_page_sizes(file, column.start)
        page = first_page or PageSizes(DICTIONARY_PAGE, column.decompressed, column.compressed)
        for sizes in (column, page):
            if sizes.decompressed > max(BATCH_BYTES, _MAX_RATIO * sizes.compressed):
                raise _absurd(path, f"column {name} expands from {sizes.compressed:,} to {sizes.decompressed:,} bytes")
        if page.kind == DICTIONARY_PAGE:
            repeated += page.decompressed
            if page.decompressed > MAX_VALUE_BYTES:
                raise _absurd(path, f"column {name} has a dictionary of {page.decompressed:,} bytes")
        if nested and column.values > MAX_NESTED_VALUES:
            raise _absurd(path, f"column {name} has {column.values:,} values in one row group")
    average = group.decompressed // max(group.rows, 1)
    return int(min(max(BATCH_BYTES // max(average, repeated, 1), 1), BATCH_ROWS))


def _next_batch(path: Path, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    with _damage_named(path):
        batch = next(batches, None)
        if batch is None:
            return None
        for field in batch.schema:
            if _is_nested(field) and (size := _largest_field(batch.column(field.name))) > MAX_NESTED_BYTES:
                raise _absurd(path, f"column {field.name} has a field of up to {size:,} bytes")
    return batch


def _rows(path: Path, batch: pa.RecordBatch) -> Iterator[dict[str, object]]:
    # Rows with nested fields one at a time: their repeated texts are held once only as long as they are Arrow arrays.
    step = 1 if any(map(_is_nested, batch.schema)) else max(batch.num_rows, 1)
    for start in range(0, batch.num_rows, step):
        with _damage_named(path):
            rows = batch.slice(start, step).to_pylist() if batch.num_columns else [{}] * step
        yield from rows


def _largest_field(array: pa.Array) -> int:
    """An upper bound of the bytes of one field, from its longest list and its longest value."""
    kind = array.type
    if pa.types.is_struct(kind):
        return sum(map(_largest_field, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return (pc.max(pc.list_value_length(array)).as_py() or 0) * max(_largest_field(array.flatten()), 1)
    if pa.types.is_dictionary(kind):
        array = array.dictionary
    if any(is_text(array.type) for is_text in _TEXT_TYPES):
        return pc.max(pc.binary_length(array)).as_py() or 0
    return 16


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: expected a complete .parquet file, found a damaged one ({reason}). Download or write it again."
        ) from error


def _absurd(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}. No table of text does that; write the file again, or save it as .jsonl.")
