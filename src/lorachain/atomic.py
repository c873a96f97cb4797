"""Writing that cannot be caught half done: beside the target, flushed to disk, renamed. Links are never followed.

Staging names are random and created exclusively, so that nothing planted beside a target is opened, and only
directories that lorachain wrote are ever removed or replaced.
"""

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from lorachain.errors import WorkspaceError

STAGING_SUFFIX = ".lorachain-partial"
"""Nobody else's name: what ends in it may be removed."""
ASIDE_SUFFIX = ".lorachain-replaced"
_OURS = (
    *("training_info.json", "manifest.json", "made_from.json", "run.json", "converted.json", "NOTICE"),
    "reasoning_report.json",
)
"""Files that tell a directory of ours from a user's own: one of them is in every directory that is replaced."""


@contextmanager
def atomic_folder(final: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields an empty directory beside `final`; when the block succeeds, flushes it and renames it to `final`.

    A directory of ours at `final` is moved aside first and removed after the rename. When the block fails, nothing
    remains and `final` is unchanged.

    Raises:
        WorkspaceError: the disk is full, `final` exists and is not to be replaced, it is not a directory of ours, or it
            may not be written to.
    """
    if not replace and os.path.lexists(final):
        raise WorkspaceError(f"{final} exists; choose another directory or remove it")
    with unwritable_as_error(final), folder_for(final):
        restore_folder(final)
        check_replaceable(final)
        _remove_leftovers(final)
        with _impossible_as_error(final):
            staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=STAGING_SUFFIX, dir=final.parent))
        try:
            yield staging
            sync_tree(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if not replace and os.path.lexists(final):
            shutil.rmtree(staging)
            raise WorkspaceError(f"{final} appeared while it was being written; choose another directory")
        check_replaceable(final)
        _rename_over(staging, final)


def move_folder(folder: Path, final: Path) -> None:
    """Renames a complete directory to `final`, in place of a directory of ours there, which is removed afterwards.

    Raises:
        WorkspaceError: `final` is not a directory of ours.
    """
    restore_folder(final)
    check_replaceable(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    _rename_over(folder, final)
    _sync_directory(folder.parent)


def _rename_over(folder: Path, final: Path) -> None:
    aside = final.with_name(f".{final.name}{ASIDE_SUFFIX}")
    if final.exists():
        final.rename(aside)
    folder.rename(final)
    _sync_directory(final.parent)
    if aside.exists():
        remove_tree(aside)


def check_replaceable(final: Path) -> None:
    """Raises WorkspaceError unless `final` is absent, an empty directory, or a directory that lorachain wrote."""
    if final.is_symlink():
        raise WorkspaceError(f"{final} is a symbolic link; lorachain does not follow links: replace it or remove it")
    if final.exists() and not is_ours(final):
        raise WorkspaceError(
            f"{final} exists and was not written by lorachain; move it away, or use another --workspace "
            "(in a terminal lorachain asks whether to move it)"
        )


def make_room(final: Path, ask: Callable[[str], bool]) -> Path | None:
    """Moves away what is at `final`, where the user agrees, and returns where it is then; None where nothing was moved.

    Raises:
        WorkspaceError: it cannot be renamed.
    """
    if final.is_symlink() or not final.exists():
        return None
    names = (f"{final.name}.moved-aside{number or ''}" for number in range(1000))
    aside = next((path for path in map(final.with_name, names) if not os.path.lexists(path)), None)
    if aside is None or not ask(f"{final} exists. Move it to {aside} and continue?"):
        return None
    try:
        final.rename(aside)
    except OSError as error:
        raise WorkspaceError(f"{final} cannot be moved ({(error.strerror or '').lower()}); move it yourself") from error
    return aside


def is_ours(folder: Path) -> bool:
    """Whether a directory is empty, or has one of the files that lorachain writes into each of its directories."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    return any(_is_regular(folder / name) for name in _OURS)


def remove_tree(folder: Path) -> bool:
    """Removes a directory of ours; anything else is left alone. Returns whether it was removed."""
    if not is_ours(folder):
        return False
    shutil.rmtree(folder)
    return True


def restore_folder(final: Path) -> None:
    """Restores a directory that was moved aside for a replacement that never came (a power failure in between)."""
    for aside in (final.with_name(f".{final.name}{suffix}") for suffix in (ASIDE_SUFFIX, ".replaced")):
        if aside.is_symlink() or not aside.is_dir() or not is_ours(aside):
            continue
        if os.path.lexists(final):
            shutil.rmtree(aside)
        else:
            aside.rename(final)


def _remove_leftovers(final: Path) -> None:
    """Removes staging directories of `final` that a killed run left."""
    for path in final.parent.glob(f".{final.name}.*{STAGING_SUFFIX}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Creates the parents of `path`; when the block ends, those of them that are still empty are removed."""
    with _impossible_as_error(path):
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def sync_tree(folder: Path) -> None:
    """Flushes every file of a directory, and the directory itself, to disk.

    Files get the mode that the user's umask gives new files: safetensors creates its files unreadable for others.
    """
    umask = _umask()
    folder.chmod(0o777 & ~umask)  # mkdtemp creates it for the user alone
    for path in [*sorted(folder.rglob("*")), folder]:
        if path.is_symlink():
            continue
        if path.is_file():
            path.chmod(0o666 & ~umask)
        _sync_directory(path)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a file's content atomically: a reader sees the old or the new. Raises as `replaced_binary_file`."""
    with replaced_file(path) as file:
        file.write(text)


@contextmanager
def replaced_file(path: Path) -> Iterator[TextIO]:
    """`replaced_binary_file` for text: UTF-8, lines end as they are written."""
    with replaced_binary_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        try:
            yield text
        finally:
            text.detach()  # flushes it, and leaves the file open for its owner


@contextmanager
def replaced_binary_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file beside `path`; when the block succeeds, flushes it and renames it to `path`.

    Raises:
        WorkspaceError: the disk is full, `path` is a symbolic link, or it may not be written to.
    """
    if path.is_symlink():
        raise WorkspaceError(f"{path} is a symbolic link; lorachain does not write through links: remove it")
    with unwritable_as_error(path):
        with _impossible_as_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for leftover in path.parent.glob(f".{path.name}.*{STAGING_SUFFIX}"):
                if _is_regular(leftover):
                    leftover.unlink()
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=STAGING_SUFFIX, dir=path.parent)
        staging = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.fsync(file.fileno())
            staging.replace(path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def open_regular(path: Path, flags: int) -> int:
    """`os.open` of a regular file, never through a link and never blocking on a pipe; returns the descriptor.

    Raises:
        WorkspaceError: it is a link or not a regular file, or may not be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        reason = "is a symbolic link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
        raise WorkspaceError(f"{path} cannot be opened: {reason}; remove it, or use another directory") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WorkspaceError(f"{path} is not a regular file; remove it, or use another directory")
    return descriptor


@contextmanager
def _impossible_as_error(target: Path) -> Iterator[None]:
    """Turns what the system says of a place where no file can be into one message; only around creating one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL):
            raise
        raise WorkspaceError(
            f"{target} cannot be written: {(error.strerror or str(error)).lower()}; choose another place"
        ) from error


@contextmanager
def unwritable_as_error(target: Path) -> Iterator[None]:
    """Turns "no space left" and "permission denied" into one message that names what was being written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = error.filename or target
            raise WorkspaceError(
                f"{where}: {(error.strerror or '').lower()}, while writing {target}; it may belong to another user: "
                "change its owner or mode, or write elsewhere"
            ) from error
        if not _is_disk_full(error):
            raise
        raise WorkspaceError(
            f"no space left on the disk while writing {target}; existing files are unchanged. "
            "Free some space and run the same command again"
        ) from error


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors and torch.save raise their own exception types with the operating system's text.
    return "No space left" in str(error) or "Disk quota exceeded" in str(error)


def require_space(target: Path, needed: int) -> None:
    """Raises WorkspaceError unless the disk that holds `target` has `needed` bytes free."""
    existing = next(p for p in [target, *target.parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise WorkspaceError(
            f"{target} needs about {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
            "free some space, or put the workspace on another disk (--workspace DIR)"
        )
