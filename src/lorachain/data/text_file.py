"""Opens files of users, whatever they are: a regular file with content, or a named problem."""

import io
import stat
from pathlib import Path

from lorachain.errors import DataError


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
