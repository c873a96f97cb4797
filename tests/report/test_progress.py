"""Progress in a pipe: lines often enough, and not more."""

import sys
import time
from dataclasses import dataclass, field
from threading import Event

import pytest

from lorachain.report import progress
from lorachain.report.console import ConsoleReporter
from lorachain.report.progress import EVERY, ProgressLines


@dataclass
class _Pipe:
    """A clock and the lines that were printed, with the time of each."""

    now: float = 0.0
    printed: list[tuple[float, str]] = field(default_factory=list)

    def line(self, text: str) -> None:
        self.printed.append((self.now, text))

    def silence(self) -> float:
        return self.now - (self.printed[-1][0] if self.printed else 0.0)


def test_a_line_at_most_every_few_seconds_with_the_time_left() -> None:
    pipe = _Pipe()
    lines = ProgressLines("training 01", 200, pipe.line, pipe.silence, lambda: pipe.now)
    for step in range(1, 201):
        pipe.now += 0.5
        lines(step, f"loss {1 / step:.2f}")
    times = [at for at, _ in pipe.printed]
    assert times == [EVERY * number for number in range(1, 7)]
    assert pipe.printed[0][1] == "training 01: 30 of 200 · loss 0.03 · 1:25 left"


def test_the_rate_of_a_resumed_run_is_that_of_its_own_steps() -> None:
    pipe = _Pipe()
    lines = ProgressLines("training 02", 1_100, pipe.line, pipe.silence, lambda: pipe.now)
    pipe.now = 1.0
    lines(1_000, "resumed")
    pipe.now = 21.0
    lines(1_010)
    assert pipe.printed[-1][1] == "training 02: 1,010 of 1,100 · 3:00 left"


def test_without_progress_a_line_says_how_long_it_has_taken() -> None:
    pipe = _Pipe()
    lines = ProgressLines("measuring 01", 1, pipe.line, pipe.silence, lambda: pipe.now)
    pipe.now = 3_725.0
    assert lines.text() == "measuring 01: 1:02:05 elapsed"


def test_at_the_end_no_time_is_left_to_say() -> None:
    pipe = _Pipe()
    lines = ProgressLines("training 01", 2, pipe.line, pipe.silence, lambda: pipe.now)
    for step in (1, 2):
        pipe.now += 20
        lines(step, "loss 0.5")
    assert pipe.printed[-1][1] == "training 01: 2 of 2 · loss 0.5"
    pipe.now += 60
    assert lines.text(waiting=True) == "training 01: 2 of 2 · loss 0.5 · 1:40 elapsed"


def test_a_line_is_printed_although_there_is_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(progress, "SILENT_AT_MOST", 0.0)
    printed = Event()
    reporter = ConsoleReporter()
    message = reporter.message

    def shown(text: str) -> None:
        message(text)
        printed.set()

    monkeypatch.setattr(reporter, "message", shown)
    with reporter.bar("merging", 100):
        assert printed.wait(timeout=20)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("merging: 0 of 100 · 0:00 elapsed\n")


def test_short_work_prints_nothing_and_quiet_never_does(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ConsoleReporter(quiet=True)
    quiet._printed = time.monotonic() - 1_000
    for reporter in (ConsoleReporter(), quiet):
        with reporter.bar("validating", 10) as bar:
            for done in range(11):
                bar(done, "note")
    assert capsys.readouterr() == ("", "")
    assert not sys.stderr.isatty()
