"""Pipes, directories and files of other users where lorachain expects a file of its own: one message, no hang."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import make_workspace, options_of, run_command_line
from lorachain.artifacts import RunState, ValidationHistory, read_stage_info
from lorachain.atomic import atomic_folder, is_ours, open_regular, remove_tree, replaced_file
from lorachain.errors import LorachainError, WorkspaceError


@pytest.mark.parametrize("kind", ["pipe", "directory"])
@pytest.mark.parametrize("name", [".lock-tiny", "00_training/train_00_debug.log"])
def test_a_lock_or_log_that_is_no_file(kind: str, name: str, tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    assert run_command_line("init", *options_of(root))[0] == 0
    path = root / "model" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert code == 2
    assert str(path) in err
    assert "Traceback" not in err


@pytest.mark.parametrize("read", [RunState.read, ValidationHistory.read, lambda path: read_stage_info(path.parent)])
def test_json_that_is_a_device_or_a_pipe(read: Callable[[Path], object], tmp_path: Path) -> None:
    makers: list[Callable[[Path], None]] = [os.mkfifo, lambda path: path.symlink_to("/dev/zero")]
    for number, make in enumerate(makers):
        path = tmp_path / str(number) / "training_info.json"
        path.parent.mkdir()
        make(path)
        with pytest.raises(LorachainError, match="regular file"):
            read(path)


def test_a_file_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("x", encoding="utf-8")
    path.chmod(0)
    if os.geteuid() == 0:
        os.close(open_regular(path, os.O_RDONLY))  # root may read everything
    else:
        with pytest.raises(WorkspaceError, match="permission denied"):
            open_regular(path, os.O_RDONLY)


def test_only_directories_of_ours_are_removed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("x", encoding="utf-8")
    assert not is_ours(own)
    assert not remove_tree(own)
    (own / "manifest.json").write_text("{}", encoding="utf-8")
    assert remove_tree(own)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert not remove_tree(link)
    assert tmp_path.is_dir()


def test_a_directory_that_appears_during_an_export_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def export() -> None:
        with atomic_folder(out, replace=False):
            out.mkdir()
            (out / "theirs.txt").write_text("theirs", encoding="utf-8")

    with pytest.raises(WorkspaceError, match="appeared"):
        export()
    assert (out / "theirs.txt").read_text(encoding="utf-8") == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_users_partial_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".run.json.partial").write_text("mine", encoding="utf-8")
    with atomic_folder(tmp_path / "out") as staging:
        (staging / "manifest.json").write_text("{}", encoding="utf-8")
    with replaced_file(tmp_path / "run.json") as file:
        file.write("{}")
    assert (tmp_path / ".out.partial").is_dir()
    assert (tmp_path / ".run.json.partial").read_text(encoding="utf-8") == "mine"


def test_files_get_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "out") as staging:
            (staging / "manifest.json").write_text("{}", encoding="utf-8")
            (staging / "manifest.json").chmod(0o600)
        with replaced_file(tmp_path / "x.json") as file:
            file.write("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "manifest.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_out_of_range(seed: int, tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    code, _, err = run_command_line("init", *options_of(root), "--seed", seed)
    assert code == 2
    assert "'seed'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_cannot_compute(device: str, tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    code, _, err = run_command_line("train", "00", *options_of(root), "--device", device)
    assert code == 2
    assert repr(device) in err
    assert "Traceback" not in err
