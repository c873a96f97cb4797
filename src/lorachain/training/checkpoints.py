"""Checkpoints that are complete or absent, and the search for the newest complete one.

transformers' `get_last_checkpoint` takes the highest number, complete or not. Here each checkpoint has a manifest with
the SHA-256 of each of its files, written last, and a run resumes only from a checkpoint that matches its manifest.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from transformers import TrainerState

from lorachain.artifacts import CheckpointManifest, TrainingProgress, TransformersState
from lorachain.atomic import STAGING_SUFFIX, atomic_folder, remove_tree
from lorachain.errors import LorachainError, WorkspaceError
from lorachain.provenance import sha256_files
from lorachain.workspace import CHECKPOINT_PREFIX, checkpoint_steps

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
TRAINER_STATE = "trainer_state.json"


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
    try:
        present = sha256_files(directory)
    except OSError as error:
        return f"{error.filename} cannot be read: {(error.strerror or '').lower()}"
    present.pop(MANIFEST, None)
    for name in sorted(expected.keys() | present.keys()):
        if expected.get(name) != present.get(name):
            return f"{name} does not match {MANIFEST}"
    if manifest.fingerprint != fingerprint:
        return "it belongs to a run with other settings or data"
    unusable_weights = next(filter(None, map(_unusable_weights, sorted(directory.glob("*.safetensors")))), None)
    return unusable_weights or _unusable_state(directory, manifest.step)


def _unusable_weights(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not file.get_tensor(name).isfinite().all():
                    return f"{path.name}: {name} is not finite (NaN or infinite)"
    except Exception as error:  # an untrusted file; some types of numbers cannot be tested
        return f"{path.name} cannot be read: {type(error).__name__}: {error}"
    return None


def _unusable_state(directory: Path, step: int) -> str | None:
    """What the run would continue from must be of the checkpoint's own step; whoever edits a file can edit the manifest
    too."""
    if directory.name != checkpoint_directory(directory.parent, step).name:
        return f"its {MANIFEST} is of step {step}"
    try:
        steps = []
        if (directory / PROGRESS).exists():
            progress = TrainingProgress.read(directory / PROGRESS)
            steps += [progress.step, len(progress.losses)]
        if (directory / TRAINER_STATE).exists():
            steps.append(TransformersState.read(directory / TRAINER_STATE).global_step)
            TrainerState.load_from_json(str(directory / TRAINER_STATE))
    except WorkspaceError as error:
        return str(error)
    except TypeError as error:  # a key that this version of transformers does not know
        return f"{TRAINER_STATE} is not one of this version of transformers: {error}"
    return next((f"its progress is that of step {other}" for other in steps if other != step), None)


@contextmanager
def unusable_as_error(checkpoint: Path | str | None) -> Iterator[None]:
    """Turns whatever a damaged or foreign file of a checkpoint raises into one message."""
    try:
        yield
    except LorachainError:
        raise
    except Exception as error:  # untrusted files
        raise WorkspaceError(
            f"{checkpoint} cannot be resumed from ({type(error).__name__}: {str(error)[:200]}); remove that directory, "
            "and the run resumes from the checkpoint before it"
        ) from error


def keep_only(run: Path, steps: Iterable[int]) -> None:
    """Removes the checkpoints of all other steps, and leftovers of interrupted writes."""
    kept = set(steps)
    for leftover in run.glob(f".{CHECKPOINT_PREFIX}*{STAGING_SUFFIX}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
    for step in checkpoint_steps(run):
        if step not in kept:
            remove_tree(checkpoint_directory(run, step))
