"""The terminal: progress bars for what takes time, messages on stderr, tables on stdout; quiet in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lorachain.redaction import printable, without_tokens

_PIPE_WIDTH = 160
"""Columns of a table in a pipe, so that nothing is cut off."""


class ConsoleReporter:
    """Messages and progress go to stderr, results (tables) to stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.err = Console(stderr=True, highlight=False, quiet=quiet)
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)

    def message(self, text: str) -> None:
        self.err.print(printable(without_tokens(text)), markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator["_Bar"]:
        if not self.err.is_terminal:
            yield _Bar(None, total, title)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as progress:
            yield _Bar(progress, total, title)

    def table(self, table: Table) -> None:
        self.out.print(table)


class _Bar:
    def __init__(self, progress: Progress | None, total: int, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="") if progress else None

    def __call__(self, done: int, note: str = "") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
