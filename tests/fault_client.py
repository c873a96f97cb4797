"""Commands that run in forked children of `fault_server.py`, which can kill them at an event."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 240.0


@dataclass(frozen=True)
class Done:
    """A command that ended: exit code (negative: killed by that signal; None: it hung), output and events."""

    code: int | None
    out: str
    err: str
    events: list[tuple[str, str]]


@dataclass(frozen=True)
class Running:
    pid: int
    output: Path

    @property
    def err(self) -> str:
        return (self.output / "stderr").read_text(encoding="utf-8")


class Server:
    """The client of fault_server.py."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process = process
        self._output = output
        self._started = 0

    def _request(self, job: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        *arguments: str,
        at: int = 0,
        full: bool = False,
        environment: Mapping[str, str] | None = None,
        clock_runs_backwards: bool = False,
        slow_step: float = 0.0,
        by: int = signal.SIGKILL,
    ) -> Running:
        """Starts a command.

        Args:
            at: the number of the event at which it is killed, or from which the disk is full; 0: none, and the events
                are logged.
            slow_step: seconds by which each optimizer step is slowed down.
            by: the signal that kills it.
        """
        self._started += 1
        output = self._output / str(self._started)
        output.mkdir()
        answer = self._request(
            {
                "arguments": arguments,
                "at": at,
                "full": full,
                "environment": {"TMPDIR": str(output), **(environment or {})},
                "slow_step": slow_step,
                "by": int(by),
                "clock_runs_backwards": clock_runs_backwards,
                "folder": str(output),
                **{name: str(output / name) for name in ("stdout", "stderr", "events")},
            }
        )
        return Running(answer["pid"], output)

    def wait(self, running: Running) -> Done:
        code = self._request({"wait": running.pid, "patience": PATIENCE})["code"]
        out, err, events = (running.output / name for name in ("stdout", "stderr", "events"))
        lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
        logged = [(name, path) for name, _, path in (line.partition("\t") for line in lines)]
        return Done(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"), logged)

    def run(self, *arguments: str, **options: Any) -> Done:
        return self.wait(self.start(*arguments, **options))


@contextmanager
def fault_server(output: Path) -> Iterator[Server]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fault_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield Server(process, output)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)
