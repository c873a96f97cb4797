"""The script for a borrowed GPU keeps what it has measured, whatever cuts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_line_that_was_cut_costs_only_itself(tmp_path: Path) -> None:
    from gpu_bench.records import append, finished, read

    out = tmp_path / "gpu.jsonl"
    append(out, {"step": "attention", "status": "done"})
    append(out, {"step": "train", "tokens_per_second": 1.5})
    with out.open("a", encoding="utf-8") as file:
        file.write('{"step": "train", "tok')  # killed while it was written
    append(out, {"step": "train", "status": "cut"})
    append(out, {"step": "memory", "status": "skipped", "reason": "없음"})
    assert [record["step"] for record in read(out)] == ["attention", "train", "train", "memory"]
    assert finished(out) == {"attention", "memory"}
    assert read(tmp_path / "other.jsonl") == []


def test_random_workloads_have_the_lengths_of_the_stages() -> None:
    from gpu_bench.workload import random_workload

    plain = random_workload("00", pack_length=256, steps=3)
    assert len(plain.packs) == 3 * plain.batch_size
    assert all(240 <= sum(map(len, pack)) <= 256 for pack in plain.packs)
    assert any(len(pack) > 1 for pack in plain.packs)
    assert plain.supervised_share() > 0.9
    exam = random_workload("02", pack_length=256, steps=2)
    assert all(32 <= len(row) <= 128 for (row,) in exam.packs)
    assert 0.2 < exam.supervised_share() < 0.3
    assert exam == random_workload("02", pack_length=256, steps=2)


def test_a_step_that_cannot_run_here_leaves_its_reason_and_is_not_started_again(tmp_path: Path) -> None:
    """Without a tokenizer nothing is generated; the second start has nothing to do."""
    out = tmp_path / "gpu.jsonl"
    request: dict[str, Any] = {"device": "cpu", "size": "tiny", "out": str(out), "workloads": [], "tokenizer": None}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--child", "generate", "--request", json.dumps(request)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert (record["step"], record["status"]) == ("generate", "skipped")
    assert "--tokenizer DIR" in record["reason"]
