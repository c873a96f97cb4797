"""Opens files and splits text into lines, whatever the bytes: UTF-8 or a named problem, never a crash or a hang."""

import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lorachain.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
"""A line longer than this is no record of text; it would only fill the memory."""


class Line(NamedTuple):
    number: int
    """From 1."""
    text: str
    """Without its line end where a file is split into lines here; empty where there is a problem."""
    problem: str | None
    """Why the bytes are no text; None where they are."""


def open_file(path: Path) -> io.BufferedReader:
    """Opens a regular, non-empty file; a folder, pipe, device or loop of links is refused before it can hang.

    Raises:
        DataError: it is no such file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path}: expected a file, found a folder.")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: expected a regular file, found a pipe, socket or device.")
        if status.st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes).")
        return path.open("rb")
    except (OSError, ValueError) as error:  # OSError: a loop of links too; ValueError: a NUL in the name
        raise DataError(f"{path}: cannot be read ({error}).") from error


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file (a byte order mark is dropped), each with its problem where it is no text.

    Raises:
        DataError: the file cannot be opened or read.
    """
    with open_file(path) as file:
        number = 0
        while data := _readline(file, path):
            number += 1
            if len(data) > MAX_LINE_BYTES:
                yield Line(number, "", f"a line longer than {MAX_LINE_BYTES // 2**20} MiB")
                while data and not data.endswith(b"\n"):
                    data = _readline(file, path)
                continue
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in data:
                yield Line(number, "", "a NUL byte: UTF-16 or no text at all; save the file as UTF-8")
                continue
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{data[error.start]:02x} at column {error.start + 1}"
                yield Line(number, "", f"{found}: not UTF-8 (CP949, EUC-KR?); save the file as UTF-8")
                continue
            yield Line(number, text, None)


def _readline(file: io.BufferedReader, path: Path) -> bytes:
    try:
        return file.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
