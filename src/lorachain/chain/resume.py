"""Where an interrupted stage resumes: at its newest complete checkpoint, with a record and a log that end there too."""

from dataclasses import dataclass
from pathlib import Path

from lorachain.chain.debug_log import drop_steps_after
from lorachain.chain.run_record import RunRecord
from lorachain.training.checkpoints import CheckpointSearch, checkpoint_directory, newest_complete, reason_to_skip


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A stage's start."""

    search: CheckpointSearch
    best_step: int | None
    """Step of the best epoch so far, whose checkpoint is complete and is kept; None where no epoch is chosen."""


def find_resume_point(run: Path, record: RunRecord, protocol: str | None) -> ResumePoint:
    """The newest complete checkpoint from which the stage can still end as it would have ended uninterrupted.

    `protocol` is given where the stage keeps its best epoch: that epoch's checkpoint must be complete as well, or the
    stage resumes before it.
    """
    skipped: list[str] = []
    before = None
    while True:
        search = newest_complete(run, record.fingerprint, before=before)
        skipped += (reason for reason in search.skipped if reason not in skipped)
        best = record.best(protocol, up_to=search.step) if protocol else None
        reason = reason_to_skip(checkpoint_directory(run, best.step), record.fingerprint) if best else None
        if best is None or reason is None:
            return ResumePoint(CheckpointSearch(search.directory, skipped), best.step if best else None)
        name = checkpoint_directory(run, best.step).name
        skipped.append(f"{name} has the best epoch so far, which is repeated: {reason}")
        before = best.step


def drop_after(step: int, record: RunRecord, log: Path, step_marker: str) -> None:
    """Removes what was recorded of later optimizer steps, which are about to be repeated, from record and debug log."""
    record.drop_after(step)
    drop_steps_after(step, log, step_marker)
