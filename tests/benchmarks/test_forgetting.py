"""The forgetting benchmark: what it draws, and what it prints."""

import json
from argparse import Namespace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from lorachain.chain.context import load_config
from lorachain.chain.stages import stage_table

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forgetting.py"


def load_script() -> Any:
    spec = spec_from_file_location("forgetting", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


forgetting = load_script()


@pytest.fixture
def names(tmp_path: Path) -> Path:
    rows = [
        {"code": f"A{number:02}.0", "korean": f"병{number}", "english": f"disease {number}"} for number in range(40)
    ]
    rows += [
        {"code": "B00.0", "korean": "기타 병", "english": "Other disease"},
        {"code": "B01.0", "korean": "병", "english": "Disease, unspecified"},
        {"code": "S00.0", "korean": "손상", "english": "injury"},
        {"code": "C00.0", "korean": "긴 이름의 병" * 5, "english": "long"},
    ]
    path = tmp_path / "names.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_tasks_share_no_name_and_differ_in_their_convention(names: Path) -> None:
    first, second = forgetting.draw_names(names, 20, 0)
    assert (len(first), len(second)) == (20, 20)
    assert len({entry["term"] for entry in (*first, *second)}) == 40
    assert all(entry["english"].startswith("disease ") for entry in first)
    assert all(entry["english"].startswith("ICD disease ") for entry in second)
    assert forgetting.draw_names(names, 20, 0) == (first, second)
    assert forgetting.draw_names(names, 20, 1) != (first, second)


def test_with_a_chapter_the_second_task_has_only_its_names(names: Path) -> None:
    with names.open("a", encoding="utf-8") as file:
        for number in range(5):
            row = {"code": f"M{number:02}.0", "korean": f"관절병{number}", "english": f"joint disease {number}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    first, second = forgetting.draw_names(names, 5, 0, "M")
    assert {entry["term"] for entry in second} == {f"관절병{number}" for number in range(5)}
    assert not any("joint" in entry["english"] for entry in first)
    assert len(first) == 5


def test_the_second_task_continues_the_lora_of_the_first() -> None:
    init, first, second = forgetting.two_task_chain()
    assert (init.kind, first.parent, second.parent) == ("init", "init", "01")
    assert first.task is second.task


def test_share_zero_is_a_stage_without_replay() -> None:
    arguments = Namespace(epochs=2, learning_rate=1e-3)
    with stage_table(forgetting.two_task_chain()):
        without, with_replay = (load_config(None, [forgetting.settings(arguments, 1, share)]) for share in (0.0, 0.05))
    assert without.stages["02"].replay is None
    replay = with_replay.stages["02"].replay
    assert replay is not None
    assert replay.shares == {"dictionary": 0.05}


def test_the_report_compares_with_replay_zero() -> None:
    def result(share: float, a: str, b: str) -> dict[str, object]:
        return {"seed": 0, "share": share, "after_a": {"A": "1111", "B": "0000"}, "after_b": {"A": a, "B": b}}

    start, without, with_replay = forgetting.report([result(0.0, "0000", "1111"), result(0.1, "1110", "1011")])
    assert "100.0 % [51.0, 100.0] n=4" in start
    assert "A   0.0 % [0.0, 49.0] n=4" in without
    assert "kept 75.0 % of A" in with_replay
    assert "A: 3 gained, 0 lost against replay 0, p = 0.25" in with_replay
    assert "B: 0 gained, 1 lost against replay 0, p = 1" in with_replay
