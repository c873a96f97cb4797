"""The fuzzer runs examples, and counts what it is there to find."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import fuzz  # noqa: E402
from fuzzing import damage  # noqa: E402
from fuzzing.worker import Example  # noqa: E402


def test_examples_of_a_kind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fuzz.py"), "--kind", "lock", "--minutes", "0.02", "--keep", str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert summary["examples"] > 0
    assert summary["problems"] == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "example",
    [
        Example("crash", "Traceback:\nKeyError: 'sum'", 0.1, 0),
        Example("accepted", "", 10.5, 0),
        Example("refused", "a message", 0.1, 2 * 10**9),
    ],
)
def test_a_crash_a_hang_and_much_memory_are_problems(example: Example, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.mkdir()
    (current / "config.json").write_text("{", encoding="utf-8")
    tally = fuzz.Tally("config", tmp_path / "kept")
    tally.add(Example("refused", "a message", 0.1, 10), current)
    assert tally.problems == {}
    tally.add(example, current)
    tally.add(example, current)
    assert list(tally.problems.values()) == [2]
    assert (tmp_path / "kept" / "config-1" / "config.json").read_text(encoding="utf-8") == "{"
    assert tally.as_dict()["examples"] == 3


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_bytes_and_often_valid_json(data: st.DataObject) -> None:
    content = json.dumps({"a": [1, 2, {"b": "c"}], "d": None}).encode()
    value = data.draw(damage.damaged_value(json.loads(content)))
    assert isinstance(damage.as_json(value), bytes)
    assert isinstance(data.draw(damage.damaged_json(content)), bytes)
    assert isinstance(data.draw(damage.damaged_lines(content + b"\n" + content)), bytes)
    assert isinstance(data.draw(damage.damaged_header(len(content).to_bytes(8, "little") + content + b"data")), bytes)
