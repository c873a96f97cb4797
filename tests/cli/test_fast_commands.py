"""Commands that only read JSON import neither torch nor any library built on it, and so start quickly."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import FinishedChain
from report_making import make_report_workspace

RESULT = Path(__file__).parent.parent / "artifacts" / "version_1" / "letters.json"
SLOW = ["torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes"]
PROGRAM = """
import json, sys
from lorachain.cli import main
arguments, slow = json.loads(sys.argv[1])
code = 0
try:
    main(arguments)
except SystemExit as stopped:
    code = stopped.code or 0
print(json.dumps([code, [name for name in slow if name in sys.modules]]))
"""


def imported(*arguments: object) -> tuple[int, list[str], str]:
    """Runs a command in a new process: its exit code, the slow modules that it imported, and its output."""
    argument = json.dumps([[str(one) for one in arguments], SLOW])
    done = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stdout.splitlines()[-1])
    return code, names, done.stdout + done.stderr


@pytest.mark.parametrize("command", [("status",), ("history", "02"), ("history",), ("ledger",)])
def test_what_shows_a_chain(finished_chain: Callable[..., FinishedChain], command: tuple[str, ...]) -> None:
    root = finished_chain("text").root
    code, slow, output = imported(*command, "--model", "tiny", "--workspace", root)
    assert (code, slow) == (0, [])
    assert ("exam dev, letters" if command == ("ledger",) else "02: KorMedMCQA") in output


def test_report(tmp_path: Path) -> None:
    root = make_report_workspace(tmp_path / "workspace")
    code, slow, output = imported("report", "--model", "tiny", "--workspace", root, "--out", tmp_path / "r.html")
    assert (code, slow) == (0, [])
    assert "the report of tiny is" in output


def test_compare() -> None:
    code, slow, output = imported("compare", RESULT, RESULT)
    assert (code, slow) == (0, [])
    assert "McNemar" in output


@pytest.mark.parametrize(
    "command",
    [
        *("init", "train", "run", "status", "history", "ledger", "dial"),
        *("eval", "compare", "merge", "verify"),
        *("doctor", "ask", "fit", "push", "report"),
    ],
)
def test_help_of_a_command_has_an_example(command: str) -> None:
    code, slow, output = imported(command, "--help")
    assert (code, slow) == (0, [])
    assert f"Example: lorachain {command} " in " ".join(output.split())


def test_help_and_version() -> None:
    code, slow, output = imported("--help")
    assert (code, slow) == (0, [])
    commands = ("init", "train", "run", "status", "history", "ledger", "dial", "eval", "compare", "export", "make-exam")
    for command in commands:
        assert f" {command} " in output
    code, slow, output = imported("--version")
    assert (code, slow) == (0, [])
    assert output.startswith("lorachain ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("status", "--model", "nobody"), "unknown model 'nobody'"),
        (("train", "00", "--model", "gemma-3-270m", "--rank", "8"), "lora.rank has no effect"),
        (("train", "07", "--model", "gemma-3-270m"), "unknown stage '07'"),
        (("eval", "base", "--out", "result.parquet"), "must end in .json"),
        (("compare", "no.json", "no.json"), "no.json cannot be read"),
        (("ledger",), "nothing of gemma-3-270m was measured yet"),
        (("ledger", "--set", "lora.rank=8"), "lora.rank has no effect on `lorachain ledger`"),
    ],
)
def test_user_errors(tmp_path: Path, command: tuple[str, ...], message: str) -> None:
    workspace = () if command[0] == "compare" else ("--workspace", tmp_path)
    code, slow, output = imported(*command, *workspace)
    assert (code, slow) == (2, [])
    assert message in output
