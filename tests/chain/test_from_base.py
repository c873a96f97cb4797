"""The ablation: stage 02 straight on raw_lora_added. What was trained one way is never taken for the other."""

import json
from collections.abc import Callable
from pathlib import Path

from chain_making import options_of

Command = Callable[..., tuple[int, str, str]]


def parent_of(root: Path) -> str:
    info = json.loads((root / "model" / "02_trained" / "tiny" / "training_info.json").read_text(encoding="utf-8"))
    folder: str = info["depends_on"]["parent"]["folder"]
    return folder


def test_what_was_trained_one_way_is_not_the_other(finished_copy: Path, lorachain: Command) -> None:
    chained = ("train", "02", *options_of(finished_copy))
    ablation = (*chained, "--from-base")
    code, _, err = lorachain(*ablation)
    assert code == 2
    assert "stale (it was trained on 01_another_lora_added/tiny)" in err
    assert parent_of(finished_copy) == "01_another_lora_added/tiny"

    assert lorachain(*ablation, "--yes")[0] == 0
    assert parent_of(finished_copy) == "raw_lora_added/tiny"
    code, _, err = lorachain(*ablation)
    assert code == 0
    assert "02 exam is finished" in err
    assert "resuming" not in err

    for command in (chained, ("run", *options_of(finished_copy))):
        code, _, err = lorachain(*command)
        assert code == 2
        assert "stale (it was trained on raw_lora_added/tiny)" in err
    # status asks whether it still is what it was made as, not which of the two is wanted.
    _, out, _ = lorachain("status", *options_of(finished_copy))
    assert out.count("fresh") == 5


def test_it_needs_no_00_and_01_but_an_init(tiny_workspace: Callable[..., Path], lorachain: Command) -> None:
    root = tiny_workspace()
    command = ("train", "02", "--from-base", *options_of(root))
    code, _, err = lorachain(*command)
    assert code == 2
    assert f"lorachain init --model tiny --workspace {root}" in err
    assert lorachain("init", *options_of(root))[0] == 0
    assert lorachain(*command)[0] == 0
    assert parent_of(root) == "raw_lora_added/tiny"
    assert not (root / "model" / "01_trained").exists()


def test_only_02_has_such_a_start(tiny_workspace: Callable[..., Path], lorachain: Command) -> None:
    code, _, err = lorachain("train", "00", "--from-base", *options_of(tiny_workspace()))
    assert code == 2
    assert "--from-base is for stage 02; stage 00 has one place in the chain" in err
