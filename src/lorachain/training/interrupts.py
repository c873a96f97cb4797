"""SIGTERM and Ctrl+C: finish the step, save, exit with 143 or 130. A second Ctrl+C exits at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingInterrupted(Exception):  # noqa: N818 - an interruption is not an error
    """Training stopped on a signal, after it saved a checkpoint."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}, which is saved")
        self.exit_code = 128 + signal_number
        self.step = step


class SignalFlag:
    """Holds the number of the first signal until the current step is done."""

    def __init__(self) -> None:
        self.received: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class Terminated(BaseException):
    """SIGTERM outside of training: the directory being written is removed, complete ones are kept."""


@contextmanager
def terminated_as_exception() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated` (main thread only), so that half-written directories are removed."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: the embedding program handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def signals_finish_the_step() -> Iterator[SignalFlag]:
    """Installs handlers for the block (main thread only, as Python requires) and restores the previous ones."""
    flag = SignalFlag()
    try:
        before = {number: signal.signal(number, flag.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the embedding program handles signals
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
