"""Opens files and splits them into lines, whatever the bytes: UTF-8 text or a named problem, never a crash."""

import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lorachain.data.normalization import ZERO_WIDTH
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


def open_file(path: Path) -> io.BufferedReader:
    """Opens a regular, non-empty file. A directory, pipe, device or loop of links is refused before it can block.

    Raises:
        DataError: it is not such a file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path}: expected a file, found a directory.")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: expected a regular file, found a pipe, socket or device.")
        if status.st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes).")
        return path.open("rb")
    except (OSError, ValueError) as error:  # OSError: a loop of links too; ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read ({error}).") from error


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file, each with its problem where it is not text. Lines end with `\\n`, `\\r\\n` or `\\r`;
    byte order marks and other zero-width characters at the start of a line (files that were joined) are dropped.

    Raises:
        DataError: the file cannot be opened or read.
    """
    for number, data in enumerate(_split_lines(path), start=1):
        if data is None:
            yield Line(number, "", f"a line longer than {MAX_LINE_BYTES // 2**20} MiB")
        elif b"\0" in data:
            yield Line(number, "", "a NUL byte: UTF-16 or not text at all; save the file as UTF-8")
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                position = f"byte 0x{data[error.start]:02x} at column {error.start + 1}"
                yield Line(number, "", f"{position}: not UTF-8 (CP949, EUC-KR?); save the file as UTF-8")
                continue
            if text.endswith("\r\n"):
                text = f"{text[:-2]}\n"
            elif text.endswith("\r"):
                text = f"{text[:-1]}\n"
            yield Line(number, text if text.isascii() else text.lstrip("".join(ZERO_WIDTH)), None)


def _split_lines(path: Path) -> Iterator[bytes | None]:
    """Lines with their ends, None for each that is too long, holding one line and one chunk in memory."""
    with open_file(path) as file:
        pending: list[bytes] = []
        size = 0
        while chunk := _read(file, path):
            if chunk.endswith(b"\r"):  # its \n may be the first byte of the next chunk
                chunk += _read(file, path, 1)
            for part in chunk.splitlines(keepends=True):
                size += len(part)
                if size <= MAX_LINE_BYTES:
                    pending.append(part)
                if part.endswith((b"\n", b"\r")):
                    yield b"".join(pending) if size <= MAX_LINE_BYTES else None
                    pending, size = [], 0
        if size:
            yield b"".join(pending) if size <= MAX_LINE_BYTES else None


def _read(file: io.BufferedReader, path: Path, size: int = _CHUNK_BYTES) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
