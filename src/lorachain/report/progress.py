"""Progress where there is no terminal: a line now and then, and never half a minute without one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

EVERY = 15.0
"""Seconds without a line after which the next progress is printed."""
SILENT_AT_MOST = 25.0
"""Seconds after which a line is printed although there is no progress: a step may take minutes."""
_LOOK_EVERY = 1.0


@dataclass(slots=True)
class ProgressLines:
    """A progress bar as lines in a pipe or a log."""

    title: str
    total: int
    print_line: Callable[[str], None]
    silence: Callable[[], float]
    """Seconds since anything was printed."""
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    note: str = ""
    _started: float = field(init=False)
    _first: tuple[int, float] | None = field(default=None, init=False)
    """Where progress was first reported, which is not 0 where a run was resumed."""

    def __post_init__(self) -> None:
        self._started = self.clock()

    def __call__(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note
        if self._first is None:
            self._first = (done, self.clock())
        if self.silence() >= EVERY:
            self.print_line(self.text())

    def text(self, *, waiting: bool = False) -> str:
        """`training 01: 54 of 150 · loss 0.53 · 640 tokens/s · 1:12 left`.

        Args:
            waiting: for a line that is printed although there is no progress: at the end, too, it says for how long.
        """
        parts = [f"{self.done:,} of {self.total:,}" if self.total > 1 else "", self.note]
        left = self._left()
        if self.done < self.total or waiting:
            elapsed = self.clock() - self._started
            left = left if self.done < self.total else None
            parts.append(f"{_minutes(elapsed)} elapsed" if left is None else f"{_minutes(left)} left")
        return f"{self.title}: " + " · ".join(part for part in parts if part)

    def _left(self) -> float | None:
        """Seconds until the end at the rate so far; None before there is one."""
        if self._first is None or self.done <= self._first[0]:
            return None
        first, since = self._first
        return (self.clock() - since) / (self.done - first) * (self.total - self.done)

    @contextmanager
    def kept_alive(self) -> Iterator["ProgressLines"]:
        """Prints a line within the block whenever nothing else was printed for `SILENT_AT_MOST` seconds."""
        ended = Event()

        def watch() -> None:
            while not ended.wait(_LOOK_EVERY):
                if self.silence() >= SILENT_AT_MOST:
                    self.print_line(self.text(waiting=True))

        thread = Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()


def _minutes(seconds: float) -> str:
    """`0:09`, `12:30`, `1:02:00`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
