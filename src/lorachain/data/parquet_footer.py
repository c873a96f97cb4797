"""The sizes that a .parquet states in its footer, parsed without pyarrow.

pyarrow ends the process (an exception that its bindings do not catch) when it is asked for the column metadata of some
damaged files. The footer is a struct in Thrift's compact protocol (github.com/apache/thrift,
doc/specs/thrift-compact-protocol.md) with the fields of parquet.thrift (github.com/apache/parquet-format).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_FOOTER_BYTES = 16 * 2**20
DICTIONARY_PAGE = 2
_MAGIC = b"PAR1"
_MAX_DEPTH = 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)

_Fields = Mapping[int, Any]
"""Which fields of a struct are kept, by number: of those that are structs or lists of structs, the fields of these."""
_COLUMN: _Fields = {3: {3: {}, 5: {}, 6: {}, 7: {}, 9: {}, 11: {}}}
_FOOTER: _Fields = {3: {}, 4: {1: _COLUMN, 2: {}, 3: {}}}


@dataclass(frozen=True, slots=True)
class ColumnSizes:
    """One column in one row group."""

    path: tuple[str, ...]
    values: int
    decompressed: int
    """Bytes."""
    compressed: int
    """Bytes."""
    start: int
    """Position of its first page."""


@dataclass(frozen=True, slots=True)
class RowGroupSizes:
    rows: int
    decompressed: int
    """Bytes."""
    columns: tuple[ColumnSizes, ...]


@dataclass(frozen=True, slots=True)
class PageSizes:
    kind: int
    decompressed: int
    """Bytes."""
    compressed: int
    """Bytes."""


def read_footer(file: io.BufferedReader) -> list[RowGroupSizes]:
    """Raises ValueError where the file does not end with a footer."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 8, 0))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > min(size - 8, MAX_FOOTER_BYTES):
        raise ValueError(f"a footer of {length:,} bytes" if end[4:] == _MAGIC else "no footer at its end")
    file.seek(size - 8 - length)
    groups = _Reader(file.read(length)).struct(_FOOTER).get(4, [])
    return [_row_group(group) for group in _structs(groups)]


def read_page_sizes(file: io.BufferedReader, start: int) -> PageSizes | None:
    """The first three fields of the header of the page at `start`; None where the bytes are something else."""
    try:
        file.seek(start)
        header = _Reader(file.read(32)).first_fields(3)
        return PageSizes(_number(header, 1), _number(header, 2), _number(header, 3))
    except (OSError, ValueError, OverflowError):
        return None


def _row_group(group: dict[int, Any]) -> RowGroupSizes:
    columns = []
    for chunk in _structs(group.get(1)):
        (column,) = _structs([chunk.get(3)])
        path = column.get(3)
        if not isinstance(path, list) or not all(isinstance(name, bytes) for name in path):
            raise ValueError("a column without a name")
        start = _number(column, 11) if 11 in column else 0
        columns.append(
            ColumnSizes(
                path=tuple(name.decode("utf-8", "replace") for name in path),
                values=_number(column, 5),
                decompressed=_number(column, 6),
                compressed=_number(column, 7),
                start=start or _number(column, 9),
            )
        )
    return RowGroupSizes(_number(group, 3), _number(group, 2), tuple(columns))


def _structs(value: object) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("a footer of another form")
    return value


def _number(struct: dict[int, Any], field: int) -> int:
    value = struct.get(field)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"no size in field {field}")
    return value


class _Reader:
    """Reads values of the compact protocol from bytes; raises ValueError where they end or mean nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def struct(self, keep: _Fields, depth: int = 0) -> dict[int, Any]:
        """The fields in `keep`, by number."""
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._integer()
            value = self._value(header & 15, keep.get(number, {}), depth, in_struct=True)
            if number in keep:
                fields[number] = value
        return fields

    def first_fields(self, count: int) -> dict[int, Any]:
        """The fields 1 to `count`, which are integers, at the start of a struct."""
        fields: dict[int, Any] = {}
        for number in range(1, count + 1):
            if self._byte() != 0x15:  # the next field, an int32
                raise ValueError("not a page header")
            fields[number] = self._integer()
        return fields

    def _value(self, kind: int, keep: _Fields, depth: int, *, in_struct: bool) -> object:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE if in_struct else self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in _INTEGERS:
            return self._integer()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_LIST, _SET):
            header = self._byte()
            size = self._size(self._unsigned() if header >> 4 == 15 else header >> 4)
            return [self._value(header & 15, keep, depth + 1, in_struct=False) for _ in range(size)]
        if kind == _MAP:
            size = self._size(self._unsigned())
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._value(kinds >> 4, {}, depth + 1, in_struct=False)
                self._value(kinds & 15, {}, depth + 1, in_struct=False)
            return None
        if kind == _STRUCT:
            return self.struct(keep, depth + 1)
        raise ValueError(f"a value of the unknown kind {kind}")

    def _size(self, size: int) -> int:
        if size > len(self._data) - self._position:  # each element takes a byte at least
            raise ValueError(f"a list of {size:,} values")
        return size

    def _bytes(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise ValueError("cut off")
        value = self._data[self._position : end]
        self._position = end
        return value

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)  # zigzag
