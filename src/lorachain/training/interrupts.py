"""SIGTERM and Ctrl+C: finish the step, save, leave with 143 or 130. A second Ctrl+C leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingInterrupted(Exception):  # noqa: N818 - an interruption is no error
    """Training stopped on a signal after a checkpoint was written."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}, which is saved")
        self.exit_code = 128 + signal_number
        self.step = step


class SignalFlag:
    """Holds the first signal's number until the step in hand is done."""

    def __init__(self) -> None:
        self.received: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class Terminated(BaseException):
    """SIGTERM outside of training: what is being written is taken back, what stands is kept."""


@contextmanager
def terminated_as_exception() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated` (main thread only), so that half-written folders are removed."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: the embedding program owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def signals_finish_the_step() -> Iterator[SignalFlag]:
    """Installs the handlers for the block (main thread only, as Python allows) and restores the old ones."""
    flag = SignalFlag()
    try:
        before = {number: signal.signal(number, flag.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the embedding program owns the signals
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
