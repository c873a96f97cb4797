"""The ablation: stage 02 straight on raw_lora_added. The result of one parent is never taken for that of the other."""

import json
from collections.abc import Callable
from pathlib import Path

from chain_making import options_of, unmeasured

Command = Callable[..., tuple[int, str, str]]


def parent_of(root: Path) -> str:
    info = json.loads((root / "model" / "02_trained" / "tiny" / "training_info.json").read_text(encoding="utf-8"))
    folder: str = info["depends_on"]["parent"]["folder"]
    return folder


def test_a_stage_trained_on_another_parent_is_stale(finished_copy: Path, lorachain: Command) -> None:
    chained = ("train", "02", *options_of(unmeasured(finished_copy)))
    ablation = (*chained, "--from-base")
    code, _, err = lorachain(*ablation)
    assert code == 2
    assert "stale (it was trained on 01_another_lora_added/tiny)" in err
    assert parent_of(finished_copy) == "01_another_lora_added/tiny"

    assert lorachain(*ablation, "--yes")[0] == 0
    assert parent_of(finished_copy) == "raw_lora_added/tiny"
    code, _, err = lorachain(*ablation)
    assert code == 0
    assert "02: KorMedMCQA is finished" in err
    assert "resuming" not in err

    for command in (chained, ("run", *options_of(finished_copy))):
        code, _, err = lorachain(*command)
        assert code == 2
        assert "stale (it was trained on raw_lora_added/tiny)" in err
    # status compares with what the stage was made from, whichever parent a command would use.
    _, out, _ = lorachain("status", *options_of(finished_copy))
    assert out.count("fresh") == 5


def test_it_needs_an_init_but_neither_00_nor_01(tiny_workspace: Callable[..., Path], lorachain: Command) -> None:
    root = unmeasured(tiny_workspace())
    command = ("train", "02", "--from-base", *options_of(root))
    code, _, err = lorachain(*command)
    assert code == 2
    assert f"lorachain init --model tiny --workspace {root}" in err
    assert lorachain("init", *options_of(root))[0] == 0
    assert lorachain(*command)[0] == 0
    assert parent_of(root) == "raw_lora_added/tiny"
    assert not (root / "model" / "01_trained").exists()


def test_only_02_can_start_from_the_base(tiny_workspace: Callable[..., Path], lorachain: Command) -> None:
    code, _, err = lorachain("train", "00", "--from-base", *options_of(tiny_workspace()))
    assert code == 2
    assert "--from-base is not available for stage 00; allowed: 02" in err
