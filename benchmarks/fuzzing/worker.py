"""The process that runs the examples: makes good files once, then reads damaged ones in their place."""

import gc
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

KINDS = ("config", "adapter", "safetensors", "index", "tokenizer", "checkpoint", "lock", "journal", "data")
_PER_ROUND = 300
"""Examples of one seed: Hypothesis remembers all of a round."""
_MOST_ADDRESS_SPACE = 24 * 2**30
"""A bound for the machine's sake; beyond it an allocation fails, which is a crash."""


@dataclass(frozen=True, slots=True)
class Example:
    """What happened to one example."""

    outcome: str
    """accepted, refused (a `LorachainError`, or exit code 2) or crash."""
    detail: str
    seconds: float
    """Without those in which other programs had the processor."""
    growth: int
    """Peak resident memory during the example, beyond what the process had before; bytes."""


def work(kind: str, seed: int, scratch: str, supervisor: Connection, other_end: Connection) -> None:
    """Runs examples until the process is ended. The files of the current one are in `scratch`/current."""
    other_end.close()  # inherited; while it is open, the end of the supervisor would not be noticed
    _quiet()
    try:
        _work(kind, seed, Path(scratch), supervisor)
    except Exception:
        supervisor.send(traceback.format_exc())  # a fault of the benchmark itself


def _work(kind: str, seed: int, scratch: Path, supervisor: Connection) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from fuzzing.targets import make_target

    target = make_target(kind, scratch / "good")
    current = scratch / "current"
    gc.freeze()  # what is there now is not searched again at each of lorachain's own collections
    supervisor.send("ready")
    for number in range(1_000_000):

        @seeded(seed * 1_000_000 + number)
        @settings(
            max_examples=_PER_ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(data=st.data())
        def one_round(data: st.DataObject) -> None:
            files = data.draw(target.damage)
            shutil.rmtree(current, ignore_errors=True)
            for name, content in files.items():
                path = current / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            supervisor.send(_run(target.read, files))

        one_round()


def replay(kind: str, folder: Path) -> str:
    """Runs one kept example, without catching what it raises; returns what became of it."""
    import tempfile

    from fuzzing.targets import make_target

    with tempfile.TemporaryDirectory() as scratch:
        target = make_target(kind, Path(scratch) / "good")
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        started, process = _own_seconds(), psutil.Process()
        before = _reset_peak(process)
        message = target.read(files)
        growth = (_peak() - before) / 1e6
    return f"{message or 'accepted'}\n{_own_seconds() - started:.2f} s, {growth:.0f} MB"


def _run(read: Callable[[dict[str, bytes]], str], files: dict[str, bytes]) -> Example:
    process = psutil.Process()
    before, started = _reset_peak(process), _own_seconds()
    try:
        message = read(files)
        outcome = "refused" if message else "accepted"
    except Exception:
        outcome, message = "crash", traceback.format_exc()
    seconds = _own_seconds() - started
    return Example(outcome, message, seconds, max(0, _peak() - before))


def _own_seconds() -> float:
    """A clock that does not run while the process waits for the processor (not while it waits for anything else)."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        waited = 0.0
    return time.perf_counter() - waited


def _reset_peak(process: psutil.Process) -> int:
    """Sets the process's recorded peak of resident memory to what it has now, in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(process.memory_info().rss)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _quiet() -> None:
    """Drops what libraries print; an example's outcome goes through the connection."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the process's life
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESS_SPACE, _MOST_ADDRESS_SPACE))
