"""A training stage on its way: what it is made from, and what its steps share."""

from dataclasses import dataclass
from pathlib import Path

from lorachain.artifacts import EpochScore
from lorachain.artifacts.stages import TrainingInputs
from lorachain.chain.context import ChainContext, stage_config
from lorachain.chain.exams import ExamQuestions
from lorachain.chain.parents import Parent
from lorachain.chain.replay import Replay
from lorachain.chain.run_record import RunRecord
from lorachain.chain.runtime import Runtime
from lorachain.chain.stage_ledger import StageLedger
from lorachain.chain.stages import Stage
from lorachain.chain.tasks.base import StageTask
from lorachain.tokens import TokenEncoder


@dataclass(frozen=True, slots=True)
class StageInputs:
    """Everything a stage is made from."""

    parent: Parent
    encoder: TokenEncoder
    questions: ExamQuestions
    task: StageTask
    replay: Replay | None
    depends_on: TrainingInputs
    fingerprint: str
    inherited: list[EpochScore]
    """Scores on the way to the parent."""


@dataclass(slots=True)
class StageRun:
    """A stage being trained: what the functions below share."""

    context: ChainContext
    runtime: Runtime
    stage: Stage
    inputs: StageInputs
    record: RunRecord
    ledger: StageLedger

    @property
    def unpublished(self) -> Path:
        return self.context.workspace.unpublished(self.stage.name, self.context.model)

    @property
    def folder(self) -> Path:
        return self.record.path.parent

    @property
    def selecting_protocol(self) -> str | None:
        """The protocol that selects the epoch to keep; None where the last is kept."""
        keep = stage_config(self.context.config, self.stage).keep or self.stage.keeps
        return self.context.entry.answer_style if keep == "best" else None

    @property
    def step_marker(self) -> str:
        return f"{self.context.model} {self.inputs.fingerprint[:12]}"
