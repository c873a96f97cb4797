"""Where files are (docs/workspace.md), and which workspaces are refused."""

import os
from pathlib import Path

import pytest

from lorachain.errors import ModelError, WorkspaceError
from lorachain.workspace import (
    Workspace,
    cache_folder,
    check_model_name,
    checkpoint_steps,
    merged_base,
    open_workspace,
    refuse_links,
    user_key_file,
)


def test_every_place_is_the_documented_one() -> None:
    """All of them written out: other tools, and earlier versions' workspaces, rely on them."""
    workspace = Workspace(Path("w"))
    places = [
        (workspace.model_root, "w/model"),
        (workspace.model_paths, "w/model/raw/model_paths.json"),
        (workspace.output("00_trained", "m"), "w/model/00_trained/m"),
        (workspace.training("01", "m"), "w/model/01_training/m"),
        (workspace.run_state("01", "m"), "w/model/01_training/m/run.json"),
        (workspace.unpublished("01", "m"), "w/model/01_training/m/unpublished"),
        (workspace.superseded("01", "m"), "w/model/01_training/.m.superseded"),
        (workspace.token_cache("01", "m"), "w/model/01_training/.m.data/tokens"),
        (workspace.ablation("m"), "w/ablation/m"),
        (workspace.ablation_arm("m", "a", 3).root, "w/ablation/m/a/seed-3"),
        (workspace.debug_log("02"), "w/model/02_training/train_02_debug.log"),
        (workspace.ledger("m"), "w/model/ledger/m/ledger.json"),
        (workspace.dial("01", "m", "uniform"), "w/model/ledger/m/dial-01-uniform.json"),
        (workspace.lock_file("m"), "w/model/.lock-m"),
        (merged_base(Path("out")), "out/base"),
    ]
    assert [path.as_posix() for path, _ in places] == [place for _, place in places]


@pytest.mark.parametrize("name", ["a", "7b", "medgemma-4b", "A.b_C-9", "x" * 96])
def test_names_of_models(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a/b", "a..b", "..", "a b", "a\n", "용어", "x" * 97])
def test_names_that_are_no_safe_directories(name: str) -> None:
    with pytest.raises(ModelError, match="is not allowed"):
        check_model_name(name)
    workspace = Workspace(Path("w"))
    for place in (workspace.lock_file, workspace.ablation, workspace.ledger):
        with pytest.raises(ModelError, match="is not allowed"):
            place(name)
    with pytest.raises(ModelError, match="is not allowed"):
        workspace.output("00_trained", name)


def test_checkpoints_by_number_newest_first(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-2", "checkpoint-x", "checkpoint-", "check-5", "x3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-50").write_text("a file")
    assert checkpoint_steps(tmp_path) == [10, 9, 2]
    assert checkpoint_steps(tmp_path / "nothing") == []


@pytest.mark.parametrize("given", [None, "", "/elsewhere"])
def test_cache_and_key_follow_the_xdg_directories(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
        if given is not None:
            monkeypatch.setenv(variable, given)
    cache, state = (given, given) if given else ("/home/user/.cache", "/home/user/.local/state")
    assert cache_folder().as_posix() == f"{cache}/lorachain"
    assert user_key_file().as_posix() == f"{state}/lorachain/key"


def test_a_workspace_need_not_exist_but_its_parent_must_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_workspace(tmp_path).root == tmp_path
    assert open_workspace(tmp_path / "a" / "b").root == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    monkeypatch.chdir(tmp_path)
    assert open_workspace(Path("new")).root == Path("new")
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(WorkspaceError, match=r"file is not a directory; choose another directory"):
            open_workspace(root)


@pytest.mark.parametrize("missing", [os.W_OK, os.X_OK])
def test_a_workspace_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """Also for root, who may do everything: the system's answer is replaced."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & missing)
    with pytest.raises(WorkspaceError, match="cannot be written to"):
        open_workspace(tmp_path / "new")


@pytest.mark.parametrize("place", ["model", "model/link", "model/a/b/link"])
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_anywhere_in_a_workspace_is_refused(tmp_path: Path, place: str, target: str) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("x")
    root = tmp_path / "workspace"
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(outside / target)
    with pytest.raises(WorkspaceError, match="is a symbolic link") as caught:
        open_workspace(root)
    assert str(root / place) in str(caught.value)
    assert str(outside / target) in str(caught.value)


def test_a_workspace_without_links_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to("nothing")  # beside model/ it is nobody's business
    (tmp_path / "model" / "a").mkdir(parents=True)
    (tmp_path / "model" / "a" / "file").write_text("x")
    refuse_links(tmp_path / "model")
    refuse_links(tmp_path / "nothing")
    assert open_workspace(tmp_path).root == tmp_path


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "closed").mkdir(parents=True)
    scan = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(WorkspaceError, match="closed cannot be listed: permission denied"):
        open_workspace(tmp_path)
