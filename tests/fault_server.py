"""Runs the command line in forked children of one process that has imported everything: imports take seconds.

Started by `fault_client.py`. Reads one JSON job per line and answers with one JSON line; a job starts a command or
waits for one. A child counts its events (writes, flushes, renames, removals, optimizer steps) and can kill itself at
one of them, or fail every write from there as if the disk were full.
"""

import errno
import gc
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

NEEDS_SPACE = ("flush", "rename", "replace", "write", "copy a tensor", "merge a tensor")


class Events:
    """Counts events; at event `at` the process gets the signal `by`, or (`full`) all writes fail from there on."""

    def __init__(self, at: int, by: int, full: bool, log: Path) -> None:
        self.at = at
        self.by = by
        self.full = full
        self.count = 0
        self.log = log.open("w", encoding="utf-8")

    def record(self, name: str, path: object = "") -> None:
        self.count += 1
        if not self.at:
            self.log.write(f"{name}\t{path}\n")
            self.log.flush()
        if self.full:
            if 0 < self.at <= self.count and name in NEEDS_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        elif self.count == self.at:
            os.kill(os.getpid(), self.by)

    def before(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.record(name, arguments[0] if arguments and isinstance(arguments[0], str | Path) else "")
            return function(*arguments, **named)

        return wrapped

    def half_written(self, function: Callable[..., Any], name: str, path_at: int) -> Callable[..., Any]:
        """Truncates the file where the process is killed, or the disk is full, during the write."""

        @wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            path = Path(arguments[path_at])
            if self.at and self.count + 1 >= self.at:
                os.truncate(path, path.stat().st_size // 2)
            self.record(name, path)
            if self.at and self.count >= self.at:
                raise AssertionError("the process survived a truncated write")
            return result

        return wrapped


def slowed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **named)

    return wrapped if seconds else function


def install(events: Events, slow_step: float) -> None:
    import torch

    from lorachain.chain import stage_scores
    from lorachain.training import optimizer
    from lorachain.weights import lora, merge

    def before(owner: Any, name: str, event: str) -> None:
        setattr(owner, name, events.before(getattr(owner, name), event))

    def half_written(owner: Any, name: str, path_at: int) -> None:
        setattr(owner, name, events.half_written(getattr(owner, name), "write", path_at))

    before(os, "fsync", "flush")
    before(os, "rename", "rename")
    before(os, "replace", "replace")
    before(os, "unlink", "remove")
    before(os, "rmdir", "remove folder")
    before(shutil, "rmtree", "remove tree")
    before(optimizer.MasterWeightAdamW, "step", "optimizer step")
    slow: Any = optimizer.MasterWeightAdamW
    slow.step = slowed(slow.step, slow_step)
    before(stage_scores, "validate", "validate")
    half_written(lora, "save_file", 1)
    half_written(torch, "save", 1)
    half_written(Path, "write_bytes", 0)
    half_written(Path, "write_text", 0)
    before(merge, "_copy_tensor", "copy a tensor")
    before(merge, "_merge_tensor", "merge a tensor")


def turn_back_the_clocks() -> None:
    """Every reading of a clock is ten minutes before the previous one."""
    ticks = iter(range(10**9, 0, -600))
    time.time = time.monotonic = time.perf_counter = lambda: float(next(ticks))


def child(job: dict[str, Any]) -> None:
    os.setsid()
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    from lorachain.cli import main

    install(Events(job["at"], job["by"], job["full"], Path(job["events"])), job["slow_step"])
    if job["clock_runs_backwards"]:
        turn_back_the_clocks()
    code = 0
    try:
        main(job["arguments"])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def start(job: dict[str, Any]) -> dict[str, int]:
    pid = os.fork()
    if pid == 0:
        try:
            child(job)
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(99)
    return {"pid": pid}


def wait(pid: int, patience: float) -> dict[str, Any]:
    end = time.monotonic() + patience
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return {"code": os.waitstatus_to_exitcode(status)}
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"code": None}
        time.sleep(0.01)


def warm_up() -> None:
    """Imports everything that a chain needs, without starting a thread."""
    import torch
    from transformers.models.gemma3 import modeling_gemma3  # noqa: F401

    import lorachain.chain.pipeline
    import lorachain.cli
    import lorachain.report.tables  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    warm_up()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = wait(job["wait"], job["patience"]) if "wait" in job else start(job)
        print(json.dumps(answer), flush=True)
