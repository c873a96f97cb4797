"""The terminal: progress for what takes time (a bar, or lines in a pipe), messages on stderr, tables on stdout."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lorachain.redaction import printable, without_tokens
from lorachain.report.progress import ProgressLines

_Progress = Callable[..., None]
_PIPE_WIDTH = 160
"""Columns of a table in a pipe, so that nothing is cut off."""


class ConsoleReporter:
    """Messages and progress go to stderr, results (tables) to stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.err = Console(stderr=True, highlight=False, quiet=quiet)
        self.out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        self._printed = time.monotonic()

    def message(self, text: str) -> None:
        self._printed = time.monotonic()
        self.err.print(printable(without_tokens(text)), markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator["_Progress"]:
        if self.err.quiet:
            yield lambda done, note="": None
        elif not self.err.is_terminal:
            lines = ProgressLines(title, total, self.message, lambda: time.monotonic() - self._printed)
            with lines.kept_alive():
                yield lines
        else:
            with _terminal_progress(self.err) as progress:
                yield _Bar(progress, total, title)

    def lines(self, lines: Iterable[str]) -> None:
        """Text of a result, one line each."""
        for line in lines:
            self.out.print(without_tokens(line), markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        self.out.print(table)


def _terminal_progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


class _Bar:
    def __init__(self, progress: Progress, total: int, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def __call__(self, done: int, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)
