"""Directories and files that are complete or absent, and what is never removed or followed."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorachain.atomic import (
    ASIDE_SUFFIX,
    STAGING_SUFFIX,
    atomic_folder,
    atomic_write_text,
    check_replaceable,
    folder_for,
    is_ours,
    make_room,
    move_folder,
    open_regular,
    remove_tree,
    replaced_binary_file,
    replaced_file,
    require_space,
    restore_folder,
    sync_tree,
    unwritable_as_error,
)
from lorachain.errors import WorkspaceError

OURS = (
    *("training_info.json", "manifest.json", "made_from.json", "run.json", "converted.json", "NOTICE"),
    "reasoning_report.json",
)


class Stopped(BaseException):
    """Ctrl-C, or a kill."""


def ours(folder: Path, content: str = "old") -> Path:
    """A directory that lorachain wrote."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "data").write_text(content)
    return folder


def users(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o026)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- directories -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("existing", [None, "empty", "ours"])
def test_a_directory_appears_complete_and_replaces_one_of_ours(tmp_path: Path, existing: str | None) -> None:
    final = tmp_path / "parent" / "out"
    if existing == "empty":
        final.mkdir(parents=True)
    elif existing == "ours":
        ours(final)
    with atomic_folder(final) as staging:
        assert staging.parent == final.parent
        # As leftovers are recognized that a killed run leaves.
        assert staging.name.startswith(".out.")
        assert staging.name.endswith(STAGING_SUFFIX)
        assert names(staging) == []
        (staging / "new").write_text("new")
        (staging / "sub").mkdir()
        os.close(os.open(staging / "sub" / "secret", os.O_CREAT | os.O_WRONLY, 0o600))
        assert final.exists() == (existing is not None)
        if existing == "ours":
            assert (final / "data").read_text() == "old"
    assert names(final) == ["new", "sub"]
    assert names(final.parent) == ["out"]
    assert (mode(final), mode(final / "new"), mode(final / "sub" / "secret")) == (0o751, 0o640, 0o640)


@pytest.mark.parametrize("error", [ValueError, Stopped])
@pytest.mark.parametrize("existing", [False, True])
def test_after_a_failure_nothing_remains_and_nothing_changed(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    final = tmp_path / "a" / "b" / "out"
    if existing:
        ours(final)

    def fail() -> None:
        with atomic_folder(final) as staging:
            (staging / "new").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["a"] if existing else [])  # parents that were made for it are removed again
    if existing:
        assert names(final.parent) == ["out"]
        assert (final / "data").read_text() == "old"


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    final = users(tmp_path / "out")
    with pytest.raises(WorkspaceError, match="was not written by lorachain"), atomic_folder(final):
        pytest.fail("nothing is written for it")
    assert names(tmp_path) == ["out"]
    (tmp_path / "link").symlink_to(ours(tmp_path / "target"))
    with pytest.raises(WorkspaceError, match="is a symbolic link"), atomic_folder(tmp_path / "link"):
        pytest.fail("nothing is written for it")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError, match="was not written by lorachain"):
        check_replaceable(tmp_path / "file")


def test_what_appears_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with pytest.raises(WorkspaceError, match="was not written by lorachain"), atomic_folder(final):
        users(final)
    assert (final / "thesis.txt").exists()
    shutil.rmtree(final)
    with pytest.raises(WorkspaceError, match="appeared while"), atomic_folder(final, replace=False):
        ours(final)
    assert names(tmp_path) == ["out"] or all(STAGING_SUFFIX not in name for name in names(tmp_path))
    assert (final / "data").read_text() == "old"


@pytest.mark.parametrize("make", [ours, users, lambda path: path.symlink_to("nowhere")])
def test_without_replace_anything_there_is_an_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "out")
    with pytest.raises(WorkspaceError, match="exists"), atomic_folder(tmp_path / "out", replace=False):
        pytest.fail("nothing is written for it")


def test_without_replace_a_new_directory_is_written(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out", replace=False) as staging:
        (staging / "new").write_text("x")
    assert names(tmp_path / "out") == ["new"]


def test_leftovers_of_this_directory_are_removed_and_of_others_kept(tmp_path: Path) -> None:
    for name in (f".out.abc{STAGING_SUFFIX}", f".other.abc{STAGING_SUFFIX}", ".out.abc.partial"):
        users(tmp_path / name)
    outside = users(tmp_path / "outside")
    (tmp_path / f".out.link{STAGING_SUFFIX}").symlink_to(outside)
    (tmp_path / f".out.file{STAGING_SUFFIX}").write_text("x")
    with atomic_folder(tmp_path / "out") as staging:
        (staging / "new").write_text("x")
    assert f".out.abc{STAGING_SUFFIX}" not in names(tmp_path)
    kept = {
        f".other.abc{STAGING_SUFFIX}",
        ".out.abc.partial",
        f".out.link{STAGING_SUFFIX}",
        f".out.file{STAGING_SUFFIX}",
    }
    assert kept <= set(names(tmp_path))
    assert names(outside) == ["thesis.txt"]


@pytest.mark.parametrize("suffix", [ASIDE_SUFFIX, ".replaced"])
def test_a_directory_moved_aside_is_restored_unless_the_new_one_came(tmp_path: Path, suffix: str) -> None:
    aside = ours(tmp_path / f".out{suffix}")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "data").read_text() == "old"
    assert not aside.exists()
    ours(aside, "older")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out" / "data").read_text() == "old"
    assert not aside.exists()


def test_nothing_foreign_is_restored_or_removed(tmp_path: Path) -> None:
    users(tmp_path / f".out{ASIDE_SUFFIX}")
    ours(tmp_path / "target")
    (tmp_path / ".out.replaced").symlink_to(tmp_path / "target")
    restore_folder(tmp_path / "out")
    (tmp_path / "out").symlink_to("nowhere")
    restore_folder(tmp_path / "out")
    assert names(tmp_path) == sorted([f".out{ASIDE_SUFFIX}", ".out.replaced", "out", "target"])
    assert (tmp_path / "target" / "data").exists()


def test_a_dangling_link_in_the_place_counts_as_there(tmp_path: Path) -> None:
    """What was moved aside must not be renamed onto it."""
    aside = ours(tmp_path / f".out{ASIDE_SUFFIX}")
    (tmp_path / "out").symlink_to("nowhere")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert not aside.exists()


@pytest.mark.parametrize("existing", [False, True])
def test_a_directory_is_moved_into_its_place(tmp_path: Path, existing: bool) -> None:
    folder, final = ours(tmp_path / "new", "new"), tmp_path / "a" / "out"
    if existing:
        ours(final)
    move_folder(folder, final)
    assert (final / "data").read_text() == "new"
    assert names(final.parent) == ["out"]
    assert names(tmp_path) == ["a"]


def test_a_directory_is_not_moved_over_a_users(tmp_path: Path) -> None:
    folder, final = ours(tmp_path / "new"), users(tmp_path / "out")
    with pytest.raises(WorkspaceError, match="was not written by lorachain"):
        move_folder(folder, final)
    assert names(final) == ["thesis.txt"]
    assert folder.exists()


def test_moving_restores_what_was_aside_first(tmp_path: Path) -> None:
    """Killed between two renames: the old directory comes back, and is then replaced."""
    ours(tmp_path / f".out{ASIDE_SUFFIX}")
    move_folder(ours(tmp_path / "new", "new"), tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "new"


@pytest.mark.parametrize("name", OURS)
def test_a_directory_of_ours_has_one_of_our_files(tmp_path: Path, name: str) -> None:
    folder = users(tmp_path / "out")
    assert not is_ours(folder)
    (folder / name).symlink_to(folder / "thesis.txt")
    assert not is_ours(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert not is_ours(folder)
    (folder / name).rmdir()
    (folder / name).write_text("{}")
    assert is_ours(folder)
    (tmp_path / "link").symlink_to(folder)
    assert not is_ours(tmp_path / "link")
    assert not is_ours(folder / name)
    assert not is_ours(tmp_path / "nothing")
    assert not remove_tree(tmp_path / "link")
    assert remove_tree(folder)
    assert not folder.exists()


def test_an_empty_directory_is_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert is_ours(tmp_path / "out")


def test_making_room_asks_with_both_names_and_moves_only_on_yes(tmp_path: Path) -> None:
    questions: list[str] = []
    folder = users(tmp_path / "out")

    def answer(yes: bool) -> Callable[[str], bool]:
        return lambda question: questions.append(question) or yes  # type: ignore[func-returns-value]

    assert make_room(folder, answer(False)) is None
    assert names(tmp_path) == ["out"]
    assert make_room(folder, answer(True)) == tmp_path / "out.moved-aside"
    assert names(tmp_path) == ["out.moved-aside"]
    assert questions == [f"{folder} exists. Move it to {folder}.moved-aside and continue?"] * 2
    (tmp_path / "out.moved-aside1").symlink_to("nowhere")  # a name that is taken, although nothing is behind it
    assert make_room(users(folder), answer(True)) == tmp_path / "out.moved-aside2"


def test_parents_that_stay_empty_are_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with folder_for(tmp_path / "there" / "a" / "b" / "file"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
    assert names(tmp_path) == ["there"]
    with folder_for(tmp_path / "there" / "a" / "b" / "file"):
        (tmp_path / "there" / "a" / "other").write_text("x")
    assert names(tmp_path / "there" / "a") == ["other"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was flushed to disk, as (device, inode)."""
    flushed: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        flushed.append((status.st_dev, status.st_ino))

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


def inode(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


@pytest.mark.usefixtures("umask")
def test_everything_is_flushed_before_the_rename_and_the_parent_after_it(
    tmp_path: Path, synced: list[tuple[int, int]]
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o604)
    with atomic_folder(tmp_path / "out") as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "file").write_text("x")
        (staging / "link").symlink_to(outside)
    out = tmp_path / "out"
    assert set(synced[:-1]) == {inode(out), inode(out / "sub"), inode(out / "sub" / "file")}
    assert synced[-1] == inode(tmp_path)
    assert mode(outside) == 0o604
    synced.clear()
    sync_tree(out)
    assert inode(outside) not in synced
    synced.clear()
    (out / "manifest.json").write_text("{}")
    move_folder(out, tmp_path / "a" / "moved")  # both parents have changed
    assert set(synced) == {inode(tmp_path), inode(tmp_path / "a")}
    synced.clear()
    atomic_write_text(tmp_path / "text", "x")
    assert synced == [inode(tmp_path / "text"), inode(tmp_path)]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_a_file_is_replaced_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    atomic_write_text(path, "eins\nzwei\n")
    assert path.read_bytes() == b"eins\nzwei\n"
    assert mode(path) == 0o640
    with replaced_file(path) as file:
        file.write("용어\n")
        (staging,) = set(names(path.parent)) - {"file"}
        assert staging.startswith(".file.")
        assert staging.endswith(STAGING_SUFFIX)
        assert path.read_bytes() == b"eins\nzwei\n"
    assert path.read_bytes() == "용어\n".encode()
    with replaced_binary_file(path) as binary:
        binary.write(b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, Stopped])
def test_a_file_keeps_its_content_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    for replaced in (replaced_file, replaced_binary_file):
        with pytest.raises(error), replaced(path):
            raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_leftovers_of_a_file_are_removed_and_links_never_written_through(tmp_path: Path) -> None:
    (tmp_path / f".file.abc{STAGING_SUFFIX}").write_text("x")
    users(tmp_path / f".file.folder{STAGING_SUFFIX}")
    (tmp_path / f".other.abc{STAGING_SUFFIX}").write_text("x")
    atomic_write_text(tmp_path / "file", "x")
    assert names(tmp_path) == [f".file.folder{STAGING_SUFFIX}", f".other.abc{STAGING_SUFFIX}", "file"]
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(WorkspaceError, match="does not write through links"):
        atomic_write_text(tmp_path / "link", "y")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.usefixtures("umask")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT)
    assert not os.get_inheritable(descriptor)
    assert mode(path) == 0o640
    os.close(descriptor)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("link", "is a symbolic link; remove it"),
        ("pipe", "is not a regular file|no such device"),
        ("missing", "cannot be opened: no such file"),
        (".", "is not a regular file"),
    ):
        with pytest.raises(WorkspaceError, match=message):
            open_regular(tmp_path / name, os.O_RDONLY)


def test_a_full_disk_keeps_its_own_error_when_a_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left") as caught:
        open_regular(tmp_path / "file", os.O_RDONLY)
    assert not isinstance(caught.value, WorkspaceError)


# ---- errors of the disk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EACCES, "Permission denied", "/x/inner"), "/x/inner: permission denied, while writing target"),
        (OSError(errno.EPERM, "Operation not permitted"), "target: operation not permitted, while writing target"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk while writing target"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk while writing target"),
        (RuntimeError("SafetensorError: No space left on device"), "no space left on the disk"),
        (RuntimeError("write failed: Disk quota exceeded"), "no space left on the disk"),
    ],
)
def test_errors_of_the_disk_are_one_message(error: Exception, message: str) -> None:
    with pytest.raises(WorkspaceError, match=message), unwritable_as_error(Path("target")):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("x"), Stopped()])
def test_other_errors_are_passed_on(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, unwritable_as_error(Path("target")):
        raise error
    assert caught.value is error


@contextmanager
def free(monkeypatch: pytest.MonkeyPatch, amount: int) -> Iterator[list[Path]]:
    looked: list[Path] = []

    class Usage:
        free = amount

    def usage(path: Path) -> Usage:
        looked.append(path)
        return Usage()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", usage)
        yield looked


def test_space_is_required_on_the_disk_of_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with free(monkeypatch, 1000) as looked:
        require_space(tmp_path / "not" / "there", 1000)
        require_space(tmp_path, 0)
        assert looked == [tmp_path, tmp_path]
    with free(monkeypatch, 1_500_000_000), pytest.raises(WorkspaceError, match=r"about 2\.0 GB and .* 1\.5 GB free"):
        require_space(tmp_path / "x", 2_000_000_000)
    with free(monkeypatch, 999), pytest.raises(WorkspaceError):
        require_space(tmp_path / "x", 1000)
