"""The `model/` tree: the only module that knows where a file is. Directories are complete or absent.

Also how that tree is written: beside the target, flushed to disk, then renamed; free space is checked first.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lorachain.errors import ModelError, WorkspaceError

TRAINING_INFO = "training_info.json"
VALIDATION_RESULTS = "kormedmcqa_validation_results.json"
CHECKPOINT_PREFIX = "checkpoint-"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def check_model_name(name: str) -> str:
    """The name, if it is safe as the name of a directory.

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
    """The tree under `root`/model (docs/workspace.md)."""

    root: Path

    @property
    def model_root(self) -> Path:
        return self.root / "model"

    @property
    def model_paths(self) -> Path:
        return self.model_root / "raw" / "model_paths.json"

    def output(self, name: str, model: str) -> Path:
        """The output directory `name` of a stage, such as `00_trained`."""
        return self.model_root / name / check_model_name(model)

    def training(self, stage: str, model: str) -> Path:
        """Checkpoints and whatever a running stage keeps."""
        return self.output(f"{stage}_training", model)

    def run_state(self, stage: str, model: str) -> Path:
        return self.training(stage, model) / "run.json"

    def superseded(self, stage: str, model: str) -> Path:
        """Where a run goes that cannot be resumed; one of them is kept."""
        return self._beside(self.training(stage, model), "superseded")

    def token_cache(self, stage: str, model: str, rank: int = 0) -> Path:
        """Tokens of the stage's data, beside the run: what a run depends on is only known after the data was read."""
        suffix = f"data-{rank}" if rank else "data"
        return self._beside(self.training(stage, model), suffix) / "tokens"

    def debug_log(self, stage: str) -> Path:
        return self.model_root / f"{stage}_training" / f"train_{stage}_debug.log"

    def lock_file(self, model: str) -> Path:
        return self.model_root / f".lock-{check_model_name(model)}"

    @staticmethod
    def _beside(path: Path, suffix: str) -> Path:
        return path.with_name(f".{path.name}.{suffix}")


def merged_base(output: Path) -> Path:
    """Within a merge's output directory, the merged weights: beside the new LoRA on them."""
    return output / "base"


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the checkpoint directories of a run, newest first, complete or not."""
    names = (path.name.removeprefix(CHECKPOINT_PREFIX) for path in run.glob(f"{CHECKPOINT_PREFIX}*") if path.is_dir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def cache_folder() -> Path:
    """Where weights that were converted once are kept for all workspaces (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lorachain"


def open_workspace(root: Path) -> Workspace:
    """The workspace at `root`, which need not exist yet.

    Raises:
        WorkspaceError: `root` is not a directory, or cannot be written to.
    """
    existing = next(p for p in [root, *root.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = "cannot be written to" if existing.is_dir() else "is not a directory"
        raise WorkspaceError(f"--workspace {root}: {existing} {problem}; choose another directory")
    return Workspace(root)


def sync_tree(folder: Path) -> None:
    """Flushes every file of a directory, and the directory itself, to disk.

    Files get the mode that the user's umask gives new files: safetensors creates its files unreadable for others.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in [*sorted(folder.rglob("*")), folder]:
        if path.is_symlink():
            continue
        if path.is_file():
            path.chmod(0o666 & ~umask)
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
def atomic_folder(final: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields an empty directory beside `final`; when the block succeeds, flushes it and renames it to `final`.

    A directory at `final` is moved aside first and removed after the rename. When the block fails, nothing remains and
    `final` is unchanged.

    Raises:
        WorkspaceError: the disk is full, or `final` exists and is not to be replaced.
    """
    if not replace and (final.exists() or final.is_symlink()):
        raise WorkspaceError(f"{final} exists; choose another directory or remove it")
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
    """Creates the parents of `path`; when the block ends, those of them that are still empty are removed."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def restore_folder(final: Path) -> None:
    """Restores a directory that was moved aside for a replacement that never came (a power failure in between)."""
    aside = final.with_name(f".{final.name}.replaced")
    if not aside.exists():
        return
    if final.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(final)


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a file's content atomically: a reader sees the old or the new.

    Raises:
        WorkspaceError: the disk is full.
    """
    with replaced_file(path) as file:
        file.write(text)


@contextmanager
def replaced_file(path: Path) -> Iterator[TextIO]:
    """Yields a file beside `path`; when the block succeeds, flushes it and renames it to `path`.

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
    """Turns "no space left" into one message that names what was being written."""
    try:
        yield
    except Exception as error:
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
