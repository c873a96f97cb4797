"""`losses.csv` beside the checkpoints: one row per optimizer step, appended as it is trained.

It has no times, so that a run that was killed and resumed leaves the same bytes as one that was not.
"""

import csv
import os
from pathlib import Path

from lorachain.append_file import read_complete_lines
from lorachain.artifacts.loss_log import LOSS_COLUMNS, LossRow
from lorachain.atomic import open_regular, replaced_file, unwritable_as_error


class LossLog:
    """The file; it is opened for each row, so that nothing is held that a kill could lose."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: LossRow) -> None:
        """Adds a step's row, after the names of the columns where the file is new.

        Raises:
            WorkspaceError: the disk is full, or the file is a link or not a regular one.
        """
        with unwritable_as_error(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_regular(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(descriptor, "a", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(LOSS_COLUMNS)
                writer.writerow([getattr(row, name) for name in LOSS_COLUMNS])

    def drop_after(self, step: int) -> None:
        """Removes the rows of later steps, which are about to be repeated, and a row that was cut off."""
        lines = read_complete_lines(self.path).lines
        if not self.path.exists():
            return
        with replaced_file(self.path) as kept:
            for line in lines:
                number = line.partition(b",")[0]
                if not number.isdigit() or int(number) <= step:
                    kept.write(line.decode("utf-8", errors="replace") + "\n")

    def sync(self) -> None:
        """Flushes the rows to disk, before a checkpoint from which they are not repeated."""
        if self.path.exists():
            descriptor = open_regular(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
