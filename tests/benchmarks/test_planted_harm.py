"""The planted harm: what it writes, and what it counts."""

import json
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lorachain.chain.context import load_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def planted_harm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("planted_harm")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_only_the_answers_of_training_questions_are_shuffled(planted_harm: Any, tmp_path: Path) -> None:
    names = tmp_path / "names.jsonl"
    drawn = [{"code": f"A{n:02}.0", "korean": f"질병{n}", "english": f"disease {n}"} for n in range(60)]
    names.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn), encoding="utf-8")
    sources = planted_harm.write_sources(tmp_path, names, 30)
    right, shuffled = (Path(sources[name]) / "names" for name in ("exam", "shuffled"))
    assert (right / "dev.jsonl").read_bytes() == (shuffled / "dev.jsonl").read_bytes()
    pairs = list(zip(rows(right / "train.jsonl"), rows(shuffled / "train.jsonl"), strict=True))
    assert [{**row, "answer": 0} for row, _ in pairs] == [{**row, "answer": 0} for _, row in pairs]
    assert any(row["answer"] != other["answer"] for row, other in pairs)
    english = rows(Path(sources["english"]))
    assert len(english) == planted_harm.ENGLISH_DOCUMENTS
    assert all(row["text"].isascii() and len(row["text"]) >= 400 for row in english)


def test_the_gates_compare_with_the_parent_and_stop(planted_harm: Any) -> None:
    config = load_config(None, [planted_harm.settings(Namespace(epochs=2), 3, 0.01, 1, gated=True)])
    assert {(name, gate.against, gate.on_fail) for name, gate in config.gates.items()} == {
        ("exam", "parent", "stop"),
        ("exact_match", "parent", "stop"),
        ("korean", "parent", "stop"),
    }
    start = load_config(None, [planted_harm.settings(Namespace(epochs=2), 3, 0.01, 1, gated=False)])
    assert start.gates == load_config(None, []).gates
    assert (config.seed, config.stages["02"].learning_rate, config.stages["00"].learning_rate) == (3, 0.01, 5e-4)


def test_the_report_counts_what_was_stopped(planted_harm: Any) -> None:
    def result(name: str, stopped: bool) -> dict[str, Any]:
        gate = {"outcome": "failed" if stopped else "passed", "summary": f"gate of {name}"}
        return {"name": name, "stage": "02", "stopped": stopped, "gates": [gate]}

    lines = planted_harm.report(
        [result("rate", True), result("shuffled", False), result("right", False), result("repeat-1", True)]
    )
    assert lines[0] == "rate       stage 02  STOPPED"
    assert lines[1] == "    failed        gate of rate"
    assert lines[-1] == "1 of 2 harmful stages stopped, 1 of 1 harmless repeats"
