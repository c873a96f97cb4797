"""Checkpoints that are whole or absent, and the search for the newest whole one.

transformers' `get_last_checkpoint` takes the highest number, complete or not. Here every checkpoint carries a manifest
with the SHA-256 of each of its files, written last, and only one whose manifest holds is resumed from.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lorachain.provenance import load_json, sha256_files, write_json
from lorachain.workspace import atomic_folder

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class CheckpointSearch:
    """The newest whole checkpoint, and those that were passed over with the reason."""

    folder: Path | None
    passed_over: list[str]

    @property
    def step(self) -> int:
        """Optimizer steps done; 0 without a checkpoint."""
        return int(self.folder.name.removeprefix(PREFIX)) if self.folder else 0


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / f"{PREFIX}{step}"


def save_checkpoint(run: Path, step: int, fingerprint: str, write: Callable[[Path], None]) -> Path:
    """`write` fills the folder; it appears under its name only once it is complete and flushed.

    `fingerprint` names what the run was started with: a checkpoint of another configuration is never resumed.

    Raises:
        WorkspaceError: the disk is full; earlier checkpoints are untouched.
    """
    final = checkpoint_folder(run, step)
    with atomic_folder(final) as staging:
        write(staging)
        files = sha256_files(staging)
        write_json(staging / MANIFEST, {"step": step, "fingerprint": fingerprint, "files": files})
    return final


def steps_present(run: Path) -> list[int]:
    """Step numbers of the checkpoint folders, newest first, whole or not."""
    names = (path.name.removeprefix(PREFIX) for path in run.glob(f"{PREFIX}*") if path.is_dir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def newest_whole(run: Path, fingerprint: str, *, before: int | None = None) -> CheckpointSearch:
    """The newest whole checkpoint of the run `fingerprint`; with `before`, the newest of an earlier step than that."""
    passed_over: list[str] = []
    for step in steps_present(run):
        if before is not None and step >= before:
            continue
        folder = checkpoint_folder(run, step)
        reason = why_not_whole(folder, fingerprint)
        if reason is None:
            return CheckpointSearch(folder, passed_over)
        passed_over.append(f"{folder.name} passed over: {reason}")
    return CheckpointSearch(None, passed_over)


def why_not_whole(folder: Path, fingerprint: str) -> str | None:
    """None where the manifest holds for every file, otherwise what is wrong."""
    try:
        manifest = load_json(folder / MANIFEST)
        expected = dict(manifest["files"])
        stored_fingerprint = manifest["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or broken"
    found = sha256_files(folder)
    found.pop(MANIFEST, None)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} is not what {MANIFEST} says"
    if stored_fingerprint != fingerprint:
        return "it belongs to a run with other settings or data"
    return None


def keep_only(run: Path, keep: Iterable[int]) -> None:
    """Removes the checkpoints of all other steps, and what a killed write left beside them."""
    wanted = set(keep)
    for leftover in run.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover)
    for step in steps_present(run):
        if step not in wanted:
            shutil.rmtree(checkpoint_folder(run, step))
