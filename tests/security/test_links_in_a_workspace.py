"""A stranger's workspace with links in it: nothing outside is read into, replaced, truncated or deleted."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import make_workspace, options_of, run_command_line

COMMANDS = [("init",), ("train", "00"), ("train", "01"), ("train", "02"), ("run",), ("status",), ("history",)]
PLACES = [
    "raw_lora_added",
    "raw_lora_added/tiny",
    "00_training",
    "00_training/tiny",
    "00_training/.tiny.data",
    "00_training/.tiny.data/tokens",
    "00_training/.tiny.superseded",
    "00_trained",
    "00_trained/tiny",
    "01_another_lora_added/tiny",
    "02_training/tiny/checkpoint-1",
    "raw",
]
FILES = [
    ".lock-tiny",
    "00_training/train_00_debug.log",
    "00_training/tiny/run.json",
    "00_training/tiny/.run.json.partial",
    "00_trained/tiny/training_info.json",
    "raw/other.json",
]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A tree beside the workspace that must stay as it is."""
    tree = tmp_path / "canary"
    (tree / "deep").mkdir(parents=True)
    for name in ("notes.txt", "deep/letter.txt", "training_info.json", "manifest.json", "run.json"):
        (tree / name).write_text(f"precious {name}", encoding="utf-8")
    (tree / "notes.txt").chmod(0o640)
    return tree


def snapshot(tree: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file, mode of every directory."""
    paths = [tree, *sorted(tree.rglob("*"))]
    return {str(p): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in paths}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    return save_tiny_in(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
@pytest.mark.parametrize("place", PLACES)
def test_a_linked_directory_is_refused(place: str, relative: bool, base: Path, canary: Path, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "workspace", base)
    link = root / "model" / place
    if place == "raw":
        for path in sorted(link.iterdir()):
            path.unlink()
        link.rmdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(canary, link.parent) if relative else canary)
    refuse_everywhere(root, link, canary)


@pytest.mark.parametrize("name", FILES)
def test_a_linked_file_is_refused(name: str, base: Path, canary: Path, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "workspace", base)
    link = root / "model" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(canary / "notes.txt")
    refuse_everywhere(root, link, canary)


def test_a_linked_model_directory_is_refused(base: Path, canary: Path, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "model").symlink_to(canary)
    before = snapshot(canary)
    code, _, err = run_command_line("init", "--model", "gemma-3-270m", "--workspace", root)
    assert code == 2
    assert "is a symbolic link" in err
    assert snapshot(canary) == before


def refuse_everywhere(root: Path, link: Path, canary: Path) -> None:
    before = snapshot(canary)
    for command in COMMANDS:
        options = options_of(root) if command[0] != "history" else ("--model", "tiny", "--workspace", str(root))
        code, out, err = run_command_line(*command, *options)
        assert code == 2, (command, out, err)
        assert str(link) in err
        assert "symbolic link" in err
        assert "Traceback" not in err
        assert snapshot(canary) == before, command
    assert link.is_symlink()


@pytest.mark.parametrize("place", ["raw_lora_added/tiny", "00_training/tiny"])
def test_a_users_own_directory_is_not_replaced(place: str, base: Path, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "workspace", base, measured=False)
    own = root / "model" / place
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert run_command_line("init", *options_of(root))[0] == (2 if place.startswith("raw") else 0)
    run_command_line("train", "00", *options_of(root), "--yes")
    found = list(root.rglob("thesis.txt"))
    assert [path.read_text(encoding="utf-8") for path in found] == ["years of work"]


@pytest.mark.parametrize("name", ["out.json", "out.parquet"])
def test_a_planted_staging_file_is_not_written_through(name: str, base: Path, canary: Path, tmp_path: Path) -> None:
    """The names of version 0.1, beside a target that is written: outside of model/ they are the user's own."""
    out = tmp_path / "out.json"
    (tmp_path / f".{name}.partial").symlink_to(canary / "notes.txt")
    before = snapshot(canary)
    root = make_workspace(tmp_path / "workspace", base)
    code, _, err = run_command_line("eval", base, "--out", out, "--limit", "4", "--model", "tiny", "--workspace", root)
    assert code == 0, err
    assert snapshot(canary) == before
    assert (tmp_path / f".{name}.partial").is_symlink()
