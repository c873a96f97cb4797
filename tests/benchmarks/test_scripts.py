"""Every benchmark has a usage message."""

import os
import runpy
import sys
import traceback
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def print_help(script: Path, output: Path) -> int:
    """Runs a script with --help in a fork of this process, which has imported PyTorch already; returns its status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            with output.open("w", encoding="utf-8") as file:
                sys.stdout = sys.stderr = file
                sys.argv = [str(script), "--help"]
                sys.path.insert(0, str(script.parent))
                try:
                    runpy.run_path(str(script), run_name="__main__")
                    status = 0
                except SystemExit as stopped:
                    status = int(stopped.code or 0)
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_help(name: str, tmp_path: Path) -> None:
    status = print_help(BENCHMARKS / name, tmp_path / "output")
    text = (tmp_path / "output").read_text(encoding="utf-8")
    assert status == 0, text
    assert "usage" in text.lower()
