"""A directory that lorachain did not write is asked about at a terminal, and refused where there is none."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import FinishedChain, make_workspace, options_of, run_command_line, unmeasured
from lorachain.atomic import make_room
from lorachain.errors import WorkspaceError


class Terminal(io.StringIO):
    """Standard input at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["y\n", "n\n", None], ids=["yes", "no", "no terminal"])
def agrees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(sys, "stdin", io.StringIO() if request.param is None else Terminal(request.param))
    return bool(request.param == "y\n")


def own(folder: Path) -> Path:
    """A user's own directory."""
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    return folder


def moved_or_kept(folder: Path, agrees: bool) -> None:
    """Whatever was answered, nothing of it is lost; it is elsewhere only where the user agreed."""
    aside = folder.with_name(f"{folder.name}.moved-aside")
    kept = aside if agrees else folder
    assert (kept / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    assert aside.exists() == agrees
    assert (folder / "thesis.txt").exists() != agrees


@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_the_output_of_a_stage(
    yes: tuple[str, ...], agrees: bool, tmp_path: Path, save_tiny: Callable[..., Path]
) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    folder = own(root / "model" / "raw_lora_added" / "tiny")
    code, out, err = run_command_line("init", *options_of(root), *yes)
    assert code == (0 if agrees else 2), err
    moved_or_kept(folder, agrees)
    if agrees:
        assert f"{folder} exists. Move it to {folder}.moved-aside and continue?" in out
        assert f"{folder} is now {folder}.moved-aside" in err
        assert (folder / "training_info.json").is_file()
    else:
        assert "was not written by lorachain" in err


def test_a_directory_in_the_way_of_a_training_is_refused_before_it(agrees: bool, started: Path) -> None:
    folder = own(unmeasured(started) / "model" / "00_trained" / "tiny")
    code, _, err = run_command_line("train", "00", *options_of(started))
    assert code == (0 if agrees else 2), err
    moved_or_kept(folder, agrees)
    assert (started / "model" / "00_training" / "tiny").exists() == agrees


def test_a_directory_in_the_place_of_a_superseded_run(agrees: bool, started: Path) -> None:
    assert run_command_line("train", "00", *options_of(unmeasured(started)))[0] == 0
    folder = own(started / "model" / "00_training" / ".tiny.superseded")
    code, _, err = run_command_line("train", "00", *options_of(started), "--epochs", "2", "--yes")
    assert code == (0 if agrees else 2), err
    moved_or_kept(folder, agrees)


@pytest.mark.parametrize("command", ["merge", "compose", "export"])
def test_the_directory_of_an_export(
    command: str, agrees: bool, finished_chain: Callable[..., FinishedChain], tmp_path: Path
) -> None:
    chain = finished_chain("text")
    folder = own(tmp_path / "out")
    adapter = chain.model / "01_trained" / "tiny"
    place = ("--model", "tiny", "--workspace", chain.root)
    arguments = {
        "merge": ("merge", adapter, "--into", "tiny", *place),
        "compose": ("compose", *place),
        "export": ("export", "--format", "hf", *place),
    }[command]
    code, out, err = run_command_line(*arguments, "--out", folder)
    assert code == (0 if agrees else 2), err
    moved_or_kept(folder, agrees)
    if agrees:
        assert "Move it to" in out
        assert (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()
    else:
        assert f"{folder} exists" in err


def test_what_was_moved_before_stays(tmp_path: Path) -> None:
    places = []
    for _ in range(3):
        folder = own(tmp_path / "out")
        moved = make_room(folder, lambda question: True)
        assert moved is not None
        places.append(moved.name)
    assert places == ["out.moved-aside", "out.moved-aside1", "out.moved-aside2"]
    assert len(list(tmp_path.rglob("thesis.txt"))) == 3


def test_nothing_and_links_are_not_asked_about(tmp_path: Path) -> None:
    def ask(question: str) -> bool:
        raise AssertionError(question)

    assert make_room(tmp_path / "nothing", ask) is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert make_room(tmp_path / "link", ask) is None


def test_a_directory_that_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own(tmp_path / "out")

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(WorkspaceError, match="permission denied"):
        make_room(folder, lambda question: True)


def test_a_name_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch, finished_copy: Path) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    folder = own(finished_copy / "a\x1b[2Jb")
    _, out, err = run_command_line(
        "export", "--format", "hf", "--model", "tiny", "--workspace", finished_copy, "--out", folder
    )
    assert "\x1b" not in out + err
    assert "a\\x1b[2Jb" in out
