"""What a running stage has measured, kept on disk so that an interruption loses nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorachain.artifacts import EpochScore, Measure, RunState
from lorachain.atomic import make_room, remove_tree
from lorachain.errors import WorkspaceError

_REASONING = "reasoning"
"""How the names begin of what belongs to written reasoning (`Workspace.reasoning`)."""


@dataclass(slots=True)
class RunRecord:
    """The state of a run, replaced on disk as a whole at each change."""

    path: Path
    fingerprint: str
    before: dict[str, Measure] | None = None
    """The stage's own measures before training."""
    scores: list[EpochScore] = field(default_factory=list)
    moved_to: Path | None = None
    """Where an earlier run that cannot be resumed is now."""

    def write(self) -> None:
        RunState(fingerprint=self.fingerprint, before=self.before, scores=tuple(self.scores)).write(self.path)

    def put(self, score: EpochScore) -> None:
        """Adds a score in place of one of the same epoch: an epoch repeated after a kill leaves one score."""
        self.scores = [other for other in self.scores if other.epoch != score.epoch] + [score]
        self.write()

    def drop_after(self, step: int) -> None:
        """Drops what was measured after optimizer step `step`: those epochs are trained and measured again."""
        kept = [score for score in self.scores if score.step <= step]
        if len(kept) < len(self.scores):
            self.scores = kept
            self.write()

    def score_of(self, epoch: int) -> EpochScore | None:
        return next((score for score in self.scores if score.epoch == epoch), None)

    def best(self, protocol: str, up_to: int | None = None) -> EpochScore | None:
        """The epoch with the most correct answers by `protocol`, of those that ended by optimizer step `up_to`; of
        equals the earlier. None before the first."""
        best: EpochScore | None = None
        ended = (score for score in self.scores if score.epoch > 0 and (up_to is None or score.step <= up_to))
        for score in sorted(ended, key=lambda score: score.epoch):
            if best is None or score.result.better_than(best.result, protocol):
                best = score
        return best


def open_run(
    state: Path, fingerprint: str, superseded: Path, ask: Callable[[str], bool] = lambda question: False
) -> RunRecord:
    """The record of the run `fingerprint` at `state`.

    A run with other settings or data, or whose record is damaged, is moved to `superseded`; reasoning that was written
    for the stage stays. What is at `superseded` and was not written by lorachain is moved away first, where `ask`
    agrees.

    Raises:
        WorkspaceError: it does not.
    """
    run = state.parent
    with suppress(WorkspaceError):
        stored = RunState.read(state)
        if stored.fingerprint == fingerprint:
            return RunRecord(state, fingerprint, stored.before, list(stored.scores))
    moved_to = None
    # Hidden files are what a killed write left. The record is moved first: it marks the directory as ours.
    old = [path for path in run.glob("[!.]*") if not path.name.startswith(_REASONING)]
    old.sort(key=lambda path: path != state)
    if old:
        if superseded.exists() and not remove_tree(superseded) and make_room(superseded, ask) is None:
            raise WorkspaceError(f"{superseded} was not written by lorachain; move it away, then run again")
        superseded.mkdir()
        for path in old:
            path.rename(superseded / path.name)
        moved_to = superseded
    run.mkdir(parents=True, exist_ok=True)
    record = RunRecord(state, fingerprint, moved_to=moved_to)
    record.write()
    return record
