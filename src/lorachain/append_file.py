"""JSONL files that only grow: each line is safe on disk before the next is begun, so that an interruption costs one.

Opened through no link and as regular files only: they lie beside what users name, or in a workspace of a stranger.
"""

import os
from pathlib import Path
from typing import NamedTuple

from lorachain.atomic import open_regular, unwritable_as_error


class CompleteLines(NamedTuple):
    """The lines of a file that end with a newline, and how many bytes they are."""

    lines: list[bytes]
    size: int


def read_complete_lines(path: Path) -> CompleteLines:
    """The complete lines of the file that are not empty; none where it is missing. A last line that was cut off, even
    within a character, is left out.

    Raises:
        WorkspaceError: it is a link or not a regular file. OSError: it cannot be read.
    """
    if not os.path.lexists(path):
        return CompleteLines([], 0)
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        content = file.read()
    *lines, cut_off = content.split(b"\n")
    return CompleteLines([line for line in lines if line], len(content) - len(cut_off))


def drop_cut_off_line(path: Path, complete: CompleteLines) -> None:
    """Ends the file after its complete lines, so that what is appended begins a line."""
    if os.path.lexists(path) and path.stat().st_size > complete.size:
        os.truncate(path, complete.size)


def append_line(path: Path, line: str, *, header: str) -> None:
    """Appends a line, after `header` where the file is new, and flushes it to disk.

    Raises:
        WorkspaceError: the disk is full, or it is a link or not a regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with unwritable_as_error(path), os.fdopen(descriptor, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(header + "\n")
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
