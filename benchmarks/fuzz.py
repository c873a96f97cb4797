"""Damages the files of models, adapters and workspaces and has lorachain read them: a result or one message, always.

    python benchmarks/fuzz.py --kind config --minutes 10
    python benchmarks/fuzz.py --kind all --minutes 10 --keep found     # each kind in turn; failing files are kept
    python benchmarks/fuzz.py --kind index --replay found/index-1        # one kept example again, with its traceback

Hypothesis draws the damage, seeded: the same seed on the same code gives the same examples. The examples run in a
process of its own, which is watched: an exception that is no `LorachainError` (or exit code 1) is a crash, more than
10 s (without those in which other programs had the processor) a hang, and more than 1 GB of memory beyond what the
process had is too much. Exits with 1 where there was one of these.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from fuzzing.worker import KINDS, Example, replay, work

SLOW_SECONDS = 10.0
KILL_SECONDS = 120.0
MOST_BYTES = 10**9


class Tally:
    """What happened to the examples of one kind."""

    def __init__(self, kind: str, keep: Path | None) -> None:
        self.kind = kind
        self.keep = keep
        self.examples = self.refused = 0
        self.slowest = self.growth = 0.0
        self.problems: dict[str, int] = {}
        """How often each problem was seen, by its first line."""

    def add(self, done: Example, current: Path) -> None:
        self.examples += 1
        self.refused += done.outcome == "refused"
        self.slowest = max(self.slowest, done.seconds)
        self.growth = max(self.growth, done.growth)
        if done.outcome == "crash":
            self.problem(done.detail, current)
        if done.seconds > SLOW_SECONDS:
            self.problem(f"took {done.seconds:.0f} s", current)
        if done.growth > MOST_BYTES:
            self.problem(f"took {done.growth / 1e9:.1f} GB", current)

    def problem(self, detail: str, current: Path) -> None:
        name = detail.strip().splitlines()[-1][:200] if detail.strip() else "no message"
        self.problems[name] = self.problems.get(name, 0) + 1
        if self.problems[name] == 1:
            print(f"{self.kind}: {detail}", flush=True)
            if self.keep is not None and current.is_dir():
                self.keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(current, self.keep / f"{self.kind}-{len(self.problems)}", dirs_exist_ok=True)

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "examples": self.examples,
            "refused with a message": self.refused,
            "problems": self.problems,
            "slowest example, s": round(self.slowest, 2),
            "most memory of one example, MB": round(self.growth / 1e6),
        }


def fuzz(kind: str, seconds: float, seed: int, keep: Path | None) -> Tally:
    """Runs examples of one kind for so many seconds; after one that hangs or dies the next seed follows."""
    tally = Tally(kind, keep)
    context = multiprocessing.get_context("fork")  # nothing that starts threads is imported here
    left = seconds
    while left > 0:
        with tempfile.TemporaryDirectory() as scratch:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(kind, seed, scratch, theirs, ours), daemon=True)
            process.start()
            theirs.close()
            left -= watch(ours, tally, Path(scratch) / "current", left)
            process.kill()
            process.join()
        seed += 1
    return tally


def watch(worker: Connection, tally: Tally, current: Path, seconds: float) -> float:
    """Receives examples for so many seconds, or until the worker is gone or hangs; returns the seconds that it took.

    The time that the worker needs to make the good files does not count.
    """
    try:
        if not worker.poll(KILL_SECONDS * 5) or (message := worker.recv()) != "ready":
            raise RuntimeError(f"the good files could not be made: {message}")
    except EOFError as error:
        raise RuntimeError("the worker died while it made the good files") from error
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        try:
            if not worker.poll(KILL_SECONDS):
                tally.problem(f"hung for {KILL_SECONDS:.0f} s, killed", current)
                break
            message = worker.recv()
        except (EOFError, ConnectionError):
            tally.problem("the process died", current)
            break
        if isinstance(message, Example):
            tally.add(message, current)
        else:
            raise RuntimeError(message)
    return max(elapsed, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*KINDS, "all"], required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Directory for the files of examples that fail.")
    parser.add_argument("--replay", type=Path, help="A directory below --keep: run that example alone.")
    arguments = parser.parse_args()
    if arguments.replay:
        print(replay(arguments.kind, arguments.replay))
        return
    failed = False
    for kind in KINDS if arguments.kind == "all" else [arguments.kind]:
        tally = fuzz(kind, 60 * arguments.minutes, arguments.seed, arguments.keep)
        print(json.dumps(tally.as_dict(), ensure_ascii=False), flush=True)
        failed = failed or bool(tally.problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
