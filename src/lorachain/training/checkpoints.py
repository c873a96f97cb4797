"""Checkpoints that are complete or absent, and the search for the newest complete one.

transformers' `get_last_checkpoint` takes the highest number, complete or not. Here each checkpoint has a manifest with
the SHA-256 of each of its files, written last, and a run resumes only from a checkpoint that matches its manifest.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lorachain.artifacts import CheckpointManifest
from lorachain.atomic import STAGING_SUFFIX, atomic_folder, remove_tree
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_files
from lorachain.workspace import CHECKPOINT_PREFIX, checkpoint_steps

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class CheckpointSearch:
    """The newest complete checkpoint, and why newer ones were skipped."""

    directory: Path | None
    skipped: list[str]
    """A message per skipped checkpoint."""

    @property
    def step(self) -> int:
        """Optimizer steps done; 0 without a checkpoint."""
        return int(self.directory.name.removeprefix(CHECKPOINT_PREFIX)) if self.directory else 0


def checkpoint_directory(run: Path, step: int) -> Path:
    return run / f"{CHECKPOINT_PREFIX}{step}"


def save_checkpoint(run: Path, step: int, fingerprint: str, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a directory, which appears under its name when it is complete and flushed.

    `fingerprint` identifies the settings and data of the run: a checkpoint of other ones is never resumed.

    Raises:
        WorkspaceError: the disk is full; earlier checkpoints are untouched.
    """
    final = checkpoint_directory(run, step)
    with atomic_folder(final) as staging:
        write(staging)
        files = sha256_files(staging)
        CheckpointManifest(step=step, fingerprint=fingerprint, files=files).write(staging / MANIFEST)
    return final


def newest_complete(run: Path, fingerprint: str, *, before: int | None = None) -> CheckpointSearch:
    """The newest complete checkpoint of the run `fingerprint`; with `before`, of the steps before that one."""
    skipped: list[str] = []
    for step in checkpoint_steps(run):
        if before is not None and step >= before:
            continue
        directory = checkpoint_directory(run, step)
        reason = reason_to_skip(directory, fingerprint)
        if reason is None:
            return CheckpointSearch(directory, skipped)
        skipped.append(f"{directory.name} skipped: {reason}")
    return CheckpointSearch(None, skipped)


def reason_to_skip(directory: Path, fingerprint: str) -> str | None:
    """Why a checkpoint must not be resumed from; None where it is complete and of the run `fingerprint`."""
    try:
        manifest = CheckpointManifest.read(directory / MANIFEST)
    except WorkspaceError:
        return f"{MANIFEST} is missing or damaged"
    expected = manifest.files
    present = sha256_files(directory)
    present.pop(MANIFEST, None)
    for name in sorted(expected.keys() | present.keys()):
        if expected.get(name) != present.get(name):
            return f"{name} does not match {MANIFEST}"
    if manifest.fingerprint != fingerprint:
        return "it belongs to a run with other settings or data"
    return next(filter(None, map(_unusable_weights, sorted(directory.glob("*.safetensors")))), None)


def _unusable_weights(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not file.get_tensor(name).isfinite().all():
                    return f"{path.name}: {name} is not finite (NaN or infinite)"
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be read: {error}"
    return None


def keep_only(run: Path, steps: Iterable[int]) -> None:
    """Removes the checkpoints of all other steps, and leftovers of interrupted writes."""
    kept = set(steps)
    for leftover in run.glob(f".{CHECKPOINT_PREFIX}*{STAGING_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
    for step in checkpoint_steps(run):
        if step not in kept:
            remove_tree(checkpoint_directory(run, step))
