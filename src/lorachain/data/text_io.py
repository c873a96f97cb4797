"""Splits files into lines, whatever the bytes: text or a named problem, never a crash."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lorachain.data.encodings import likely_encoding, refuse_utf8
from lorachain.data.normalization import ZERO_WIDTH
from lorachain.data.text_file import open_file
from lorachain.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is no record of text and would only fill the memory."""
_CHUNK_BYTES = 2**20


class Line(NamedTuple):
    number: int
    """From 1."""
    text: str
    """With its line end as `\\n`; empty where there is a problem."""
    problem: str | None
    """Why the bytes are not text; None where they are."""


def read_lines(path: Path, encoding: str | None = None) -> Iterator[Line]:
    """The lines of a file, each with its problem where it is not text. Lines end with `\\n`, `\\r\\n` or `\\r`; byte
    order marks and other zero-width characters at the start of a line (files that were joined) are dropped.

    Args:
        encoding: one of `encodings.ENCODINGS`; None: UTF-8.

    Raises:
        DataError: the file cannot be opened or read, or it is UTF-8 and another encoding is given.
    """
    refuse_utf8(path, encoding or "utf-8")
    wide = encoding == "utf-16"
    codec = "utf-8" if encoding is None or wide else encoding
    hint = ""
    for number, data in enumerate(_split_lines(path, wide=wide), start=1):
        if data is None:
            yield Line(number, "", f"a line longer than {MAX_LINE_BYTES // 2**20} MiB")
        elif b"\0" in data:
            hint = hint or encoding_hint(path, codec)
            yield Line(number, "", f"a NUL byte: UTF-16 or not text at all; {hint}")
        else:
            try:
                text = data.decode(codec)
            except UnicodeDecodeError as error:
                hint = hint or encoding_hint(path, codec)
                name = "UTF-8" if codec == "utf-8" else codec
                position = f"byte 0x{data[error.start]:02x} at column {error.start + 1}"
                yield Line(number, "", f"{position}: not {name}; {hint}")
                continue
            if text.endswith("\r\n"):
                text = f"{text[:-2]}\n"
            elif text.endswith("\r"):
                text = f"{text[:-1]}\n"
            yield Line(number, text if text.isascii() else text.lstrip("".join(ZERO_WIDTH)), None)


def encoding_hint(path: Path, read_as: str) -> str:
    """What to do about bytes that are not text in the encoding that was read."""
    if read_as != "utf-8":
        return "give its real encoding, or save the file as UTF-8 and leave the encoding out"
    likely = likely_encoding(path)
    if likely is None:
        return "save the file as UTF-8, or give its encoding, such as --encoding cp949"
    return f"it is probably {likely.upper()}: read it with --encoding {likely}, or save the file as UTF-8"


def _split_lines(path: Path, *, wide: bool) -> Iterator[bytes | None]:
    """Lines with their ends, None for each that is too long, holding one line and one chunk in memory. What is `wide`
    (UTF-16) is turned into UTF-8."""
    with open_file(path) as file:
        pending: list[bytes] = []
        size = 0
        source = _Utf16(file, path) if wide else file
        while chunk := _read(source, path):
            if chunk.endswith(b"\r"):  # its \n may be the first byte of the next chunk
                chunk += _read(source, path, 1)
            for part in chunk.splitlines(keepends=True):
                size += len(part)
                if size <= MAX_LINE_BYTES:
                    pending.append(part)
                if part.endswith((b"\n", b"\r")):
                    yield b"".join(pending) if size <= MAX_LINE_BYTES else None
                    pending, size = [], 0
        if size:
            yield b"".join(pending) if size <= MAX_LINE_BYTES else None


class _Utf16:
    """A UTF-16 file, read as UTF-8."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._offset = 0

    def read(self, size: int) -> bytes:
        """UTF-8 of about `size` bytes of the file; empty at its end."""
        while True:
            data = self._file.read(max(size, 4))
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeError as error:  # a UnicodeDecodeError, unless the byte order mark is missing
                position = self._offset + getattr(error, "start", 0)
                raise DataError(
                    f"{self._path}: not UTF-16 (at byte {position}). Give its real encoding, or save "
                    "the file as UTF-8 and leave the encoding out."
                ) from None
            self._offset += len(data)
            if text or not data:
                return text.encode("utf-8", "surrogatepass")


def _read(file: "io.BufferedReader | _Utf16", path: Path, size: int = _CHUNK_BYTES) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
