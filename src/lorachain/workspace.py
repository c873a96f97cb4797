"""The `model/` tree: the only place that knows where a file lies. Folders are whole or absent.

Also the low-level habits of that tree: write beside, flush to disk, rename; one writer a model; space checked first.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from lorachain.errors import ModelError, WorkspaceError

StageName = Literal["00", "01", "02"]
STAGES: tuple[StageName, ...] = ("00", "01", "02")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def check_model_name(name: str) -> str:
    """The name, if it can be a folder of the workspace and no way out of it.

    Raises:
        ModelError: otherwise.
    """
    if not _MODEL_NAME.fullmatch(name) or ".." in name:
        raise ModelError(
            f"model name {name!r} is not allowed: letters, digits, '.', '_' and '-', starting with a letter or digit, "
            "at most 96 characters. Add a short name to model/raw/model_paths.json"
        )
    return name


@dataclass(frozen=True, slots=True)
class Workspace:
    """The tree under `root`/model (design of the folders: docs/workspace.md)."""

    root: Path

    @property
    def model_root(self) -> Path:
        return self.root / "model"

    @property
    def model_paths(self) -> Path:
        return self.model_root / "raw" / "model_paths.json"

    def raw_lora_added(self, model: str) -> Path:
        return self.model_root / "raw_lora_added" / check_model_name(model)

    def another_lora_added(self, model: str) -> Path:
        return self.model_root / "01_another_lora_added" / check_model_name(model)

    def merged_base(self, model: str) -> Path:
        """Stage 01 merged into the base: beside the fresh LoRA that stands on it."""
        return self.another_lora_added(model) / "base"

    def training(self, stage: StageName, model: str) -> Path:
        """Checkpoints and whatever a running stage keeps."""
        return self.model_root / f"{stage}_training" / check_model_name(model)

    def trained(self, stage: StageName, model: str) -> Path:
        return self.model_root / f"{stage}_trained" / check_model_name(model)

    def debug_log(self, stage: StageName) -> Path:
        return self.model_root / f"{stage}_training" / f"train_{stage}_debug.log"

    def lock_file(self, model: str) -> Path:
        return self.model_root / f".lock-{check_model_name(model)}"


def cache_folder() -> Path:
    """Where weights that were converted once are kept for all workspaces (the XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lorachain"


def open_workspace(root: Path) -> Workspace:
    """The workspace at `root`, which need not exist yet.

    Raises:
        WorkspaceError: `root` is no folder, or nothing may be written there.
    """
    existing = next(p for p in [root, *root.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = "cannot be written to" if existing.is_dir() else "is no folder"
        raise WorkspaceError(f"--workspace {root}: {existing} {problem}; name a folder of your own")
    return Workspace(root)


# ---- whole or absent -------------------------------------------------------------------------------------------------


def sync_tree(folder: Path) -> None:
    """Flushes every file of a folder, and the folder itself, to disk."""
    for path in [*sorted(folder.rglob("*")), folder]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yields an empty folder beside `final`; when the block ends well, flushes it and renames it to `final`.

    A folder that stood at `final` is moved aside first and removed once the new one stands. When the block fails,
    nothing remains and `final` is as it was.

    Raises:
        WorkspaceError: the disk is full.
    """
    staging = final.with_name(f".{final.name}.partial")
    aside = final.with_name(f".{final.name}.replaced")
    restore_folder(final)
    if staging.exists():
        shutil.rmtree(staging)
    with folder_for(final):
        staging.mkdir()
        try:
            with disk_full_as_error(final):
                yield staging
                sync_tree(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    if final.exists():
        final.rename(aside)
    staging.rename(final)
    _sync_directory(final.parent)
    if aside.exists():
        shutil.rmtree(aside)


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Makes the folders that `path` needs; when the block ends, those of them that stayed empty are removed again."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty: it is needed
                folder.rmdir()


def restore_folder(final: Path) -> None:
    """Puts back a folder that was moved aside for a replacement that never came (the power went in between)."""
    aside = final.with_name(f".{final.name}.replaced")
    if not aside.exists():
        return
    if final.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(final)


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a file's content at once: a reader sees the old or the new.

    Raises:
        WorkspaceError: the disk is full.
    """
    with replaced_file(path) as file:
        file.write(text)


@contextmanager
def replaced_file(path: Path) -> Iterator[TextIO]:
    """Yields a file beside `path`; when the block ends well, it stands at `path`, flushed to disk.

    Raises:
        WorkspaceError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    with disk_full_as_error(path):
        with staging.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        _sync_directory(path.parent)


@contextmanager
def disk_full_as_error(target: Path) -> Iterator[None]:
    """Turns "no space left" into one message that says what was being written, and that nothing was lost."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise WorkspaceError(
            f"no space left on the disk while writing {target}; what stood before is intact. "
            "Free some space and run the same command again"
        ) from error


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors and torch.save report it in their own exception types, by the operating system's words.
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


# ---- one writer ------------------------------------------------------------------------------------------------------


@contextmanager
def model_lock(workspace: Workspace, model: str) -> Iterator[str | None]:
    """Holds the model's lock; yields a word about a dead run whose lock was taken over, if there was one.

    The operating system drops an `flock` with its process, so a lock cannot outlive its holder; the file says who that
    is.

    Raises:
        WorkspaceError: another run holds it (process id, host, start).
    """
    path = workspace.lock_file(model)
    with folder_for(path), path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except OSError:
            held = False  # locked by another, or removed by one that ended just now
        if not held:
            raise WorkspaceError(
                f"another run works on {model} in {workspace.root}: {_holder(path)}. Wait for it, or use another "
                "--workspace"
            )
        left_by = _holder(path) if path.stat().st_size else None
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": started}))
        file.flush()
        try:
            yield f"took over the lock of a run that ended without a word ({left_by})" if left_by else None
        finally:
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile sees that it is gone


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}, started {found['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
