"""Where an interrupted stage goes on: at its newest whole checkpoint, with a record and a log that end there too."""

from dataclasses import dataclass
from pathlib import Path

from lorachain.chain.debug_log import drop_steps_after
from lorachain.chain.history import RunRecord
from lorachain.training.checkpoints import CheckpointSearch, checkpoint_directory, newest_complete, reason_to_skip


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A stage's start."""

    found: CheckpointSearch
    best_step: int | None
    """Step of the best epoch so far, whose checkpoint is there and is kept; None where no epoch is chosen."""


def find_resume_point(run: Path, record: RunRecord, protocol: str | None) -> ResumePoint:
    """The newest whole checkpoint from which the stage can still end as it would have ended undisturbed.

    `protocol` is given where the stage keeps its best epoch: that epoch's checkpoint must be whole as well, or the
    stage goes back to before it.
    """
    skipped: list[str] = []
    before = None
    while True:
        found = newest_complete(run, record.fingerprint, before=before)
        skipped += (reason for reason in found.skipped if reason not in skipped)
        best = record.best(protocol, up_to=found.step) if protocol else None
        reason = reason_to_skip(checkpoint_directory(run, best.step), record.fingerprint) if best else None
        if best is None or reason is None:
            return ResumePoint(CheckpointSearch(found.directory, skipped), best.step if best else None)
        name = checkpoint_directory(run, best.step).name
        skipped.append(f"{name} holds the best epoch so far, which is redone: {reason}")
        before = best.step


def forget_after(step: int, record: RunRecord, log: Path, step_marker: str) -> None:
    """Takes what was noted of later steps, which are about to be repeated, out of the record and the debug log."""
    record.forget_after(step)
    drop_steps_after(step, log, step_marker)
