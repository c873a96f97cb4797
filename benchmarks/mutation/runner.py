"""Runs the tests of a module against its mutants, each in a process that was forked from one that has torch loaded.

A new Python process spends seconds on importing torch, transformers and peft; a forked one does not. All of it happens
in a copy of the tree in a temporary directory: the checkout is never written to, however the run ends.
"""

import compileall
import importlib
import os
import py_compile
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["killed", "timeout", "survived"]
COPIED = ("src", "tests", "script", "benchmarks", "docs", "examples", "pyproject.toml", "README.md", "Makefile")
PRELOADED = (
    "torch",
    "transformers",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.trainer",
    "peft",
    "accelerate",
    "safetensors.torch",
    "scipy.stats",
    "pyarrow.parquet",
    "pydantic",
    "rich.console",
    "typer",
    "hypothesis",
    "pytest",
    "_hypothesis_pytestplugin",
)
"""None of them is lorachain: its modules are imported from the copy, for every mutant again."""
_FACTOR, _EXTRA_SECONDS, _WALL_FACTOR = 4.0, 10.0, 8.0


@dataclass(frozen=True, slots=True)
class Run:
    """The tests of a module, once."""

    code: int | None
    """pytest's exit code; None: ended by a signal, the limit on CPU time among them."""
    seconds: float
    """CPU time of the process."""
    output: str


class Tree:
    """A copy of the checkout that mutants are planted in."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.child: int | None = None

    def module(self, name: str) -> Path:
        return self.folder / "src" / "lorachain" / name

    def run(self, tests: list[str], limit: float | None = None) -> Run:
        """Runs tests in a forked process; `limit` is in seconds of CPU time."""
        log = self.folder / "output.txt"
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = os.fork()
        if not child:
            _run_tests(self.folder, tests, log, limit)
        self.child = child
        status = self._wait(child, None if limit is None else limit * _WALL_FACTOR)
        self._end(child)
        self.child = None
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
        code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
        return Run(code if code >= 0 else None, seconds, log.read_text(encoding="utf-8", errors="replace"))

    def _wait(self, child: int, wall: float | None) -> int | None:
        """The child's status; None where it had to be killed because it only waits."""
        started = time.monotonic()
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            if wall is not None and time.monotonic() - started > wall:
                self._end(child)
                os.waitpid(child, 0)
                return None
            time.sleep(0.01)

    def _end(self, child: int) -> None:
        """Ends what the tests started: the child leads a process group of its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)

    def close(self) -> None:
        if self.child is not None:
            self._end(self.child)


def _run_tests(folder: Path, tests: list[str], log: Path, limit: float | None) -> None:
    """In the child: never returns."""
    code = 70
    try:
        os.setsid()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if limit is not None:
            seconds = int(limit) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join((str(folder / "src"), str(folder / "tests")))
        sys.path[:0] = [str(folder / "src"), str(folder / "tests")]
        import pytest

        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={scratch}"]
        code = int(pytest.main([*options, *tests]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def copied_tree(root: Path) -> Iterator[Tree]:
    """A copy of the checkout, removed at the end. SIGTERM ends the run as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="lorachain-mutants-") as name:
        folder = Path(name)
        for part in COPIED:
            source = root / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy2(source, folder / part)
        # Bytecode is checked by the hash of its source: a mutant may have the size and the second of the original.
        compileall.compile_dir(
            folder / "src", quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH, workers=1
        )
        tree = Tree(root, folder)
        try:
            yield tree
        finally:
            tree.close()


def outcome_of(run: Run) -> Outcome:
    """What the tests say of a mutant.

    Raises:
        RuntimeError: pytest did not run the tests (a test that is named does not exist).
    """
    if run.code is None:
        return "timeout"
    if run.code in (4, 5):
        raise RuntimeError(f"pytest ran no test:\n{run.output[-2000:]}")
    return "survived" if run.code == 0 else "killed"


def limit_of(baseline: Run) -> float:
    """Seconds of CPU time after which a mutant counts as killed: it runs forever, or much longer than the original."""
    return _FACTOR * baseline.seconds + _EXTRA_SECONDS
