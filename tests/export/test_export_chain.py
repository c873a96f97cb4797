"""`lorachain export` refuses what it cannot write before any weights are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import FinishedChain
from refusals import refused


@pytest.mark.parametrize("command", [("compose",), ("export", "--format", "hf"), ("export", "--format", "adapter")])
def test_an_existing_directory_is_not_replaced(
    finished_chain: Callable[..., FinishedChain], tmp_path: Path, command: tuple[str, ...]
) -> None:
    root = finished_chain().root
    (tmp_path / "file").write_text("kept")
    common = ("--model", "tiny", "--workspace", root, "--device", "cpu")
    refused(tmp_path, *command, *common, "--out", tmp_path / "file", says=("file exists", "choose another directory"))


def test_an_unfinished_chain(started: Path, tmp_path: Path) -> None:
    common = ("--model", "tiny", "--workspace", started, "--device", "cpu")
    says = (f"{started}/model/00_trained/tiny is missing", f"lorachain run --model tiny --workspace {started}")
    refused(started, "export", "--format", "hf", *common, "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()
