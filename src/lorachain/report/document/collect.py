"""Reads what a report is about from a workspace. What is missing or damaged becomes a note; nothing is an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lorachain.artifacts import (
    EpochScore,
    LossRow,
    MergeReport,
    ReasoningReport,
    StageInfo,
    TrainingInfo,
    read_loss_log,
    read_stage_info,
)
from lorachain.chain.context import ChainContext
from lorachain.chain.exam_results import ExamResults, load_exam_results
from lorachain.chain.exam_texts import validated_questions
from lorachain.chain.history import read_history
from lorachain.chain.ledger_view import LedgerView, ledger_view
from lorachain.chain.stages import Stage, chain_stages, find_reasoning_step, training_stages
from lorachain.chain.status import StageStatus, chain_status
from lorachain.errors import LorachainError
from lorachain.reasoning.samples_file import read_samples
from lorachain.records import ExamQuestion
from lorachain.redaction import without_tokens
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO, merged_base

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageData:
    """One trained stage."""

    stage: Stage
    info: TrainingInfo | None
    """None where it is not finished."""
    losses: list[LossRow]


@dataclass(slots=True)
class ReportData:
    """Everything that a report shows."""

    model: str
    base_id: str
    """The public base: a hub id, a package or a path."""
    status: list[StageStatus]
    stages: list[StageData]
    history: list[EpochScore]
    """Of the last finished stage, back to the base."""
    merge_report: MergeReport | None = None
    ledger: LedgerView | None = None
    reasoning: ReasoningReport | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of the written reasoning: rows of samples.parquet."""
    questions: dict[tuple[str, str], ExamQuestion] = field(default_factory=dict)
    """Of the last validation, by exam and id."""
    results: ExamResults = field(default_factory=ExamResults)
    notes: dict[str, str] = field(default_factory=dict)
    """By part, why it cannot be shown."""

    @property
    def trained(self) -> list[TrainingInfo]:
        return [stage.info for stage in self.stages if stage.info is not None]

    @property
    def last(self) -> TrainingInfo | None:
        """The last finished training stage."""
        return self.trained[-1] if self.trained else None

    @property
    def finished(self) -> str:
        """When the last stage ended; empty where none has."""
        return self.last.finished if self.last else ""

    def kept_score(self) -> EpochScore | None:
        """The validation of the last stage's result."""
        last = self.last
        if last is None:
            return None
        of_stage = [score for score in self.history if score.stage == last.stage]
        return next((score for score in of_stage if score.epoch == last.validation.epoch_kept), None)

    def start_score(self) -> tuple[str, EpochScore] | None:
        """The earliest validation on the questions of `kept_score`: `base model` or `stage start`."""
        kept = self.kept_score()
        if kept is None:
            return None
        starts = [score for score in self.history if score.epoch == 0]
        if not starts:
            return None
        for name, start in (("base model", starts[0]), ("stage start", starts[-1])):
            if start.result.asks_the_same(kept.result):
                return name, start
        return None


def collect(context: ChainContext, results: Sequence[Path] = ()) -> ReportData:
    """Reads the workspace, and `results` of `lorachain eval`.

    Raises:
        DataError: one of `results` cannot be read; the user named it.
    """
    entry = context.entry
    base = entry.huggingface_id or entry.pypi_package or (Path(entry.local_path).name if entry.local_path else "")
    data = ReportData(context.model, base, list(chain_status(context)), [], [])
    data.results = load_exam_results(results)
    for stage in chain_stages():
        folder = context.output(stage)
        info = _try(data, stage.name, partial(_stage_info, folder))
        merge_report = merged_base(folder) / "merge_report.json"
        if stage.kind == "merge" and merge_report.is_file():
            data.merge_report = _try(data, "merge report", partial(MergeReport.read, merge_report))
        if stage.kind == "training":
            data.stages.append(_stage_data(context, data, stage, info))
            if isinstance(info, TrainingInfo):
                history = _try(data, "history", partial(read_history, folder))
                data.history = history or data.history
    data.ledger = _try(data, "ledger", lambda: ledger_view(context))
    _collect_reasoning(context, data)
    kept, last = data.kept_score(), data.last
    if kept is not None and last is not None:
        data.questions = _try(data, "questions", lambda: validated_questions(last, kept.result)) or {}
    return data


def collect_training(context: ChainContext) -> ReportData:
    """The training stages and their losses alone: what can be read every few seconds."""
    data = ReportData(context.model, "", [], [], [])
    for stage in training_stages():
        info = _try(data, stage.name, partial(_stage_info, context.output(stage)))
        data.stages.append(_stage_data(context, data, stage, info))
    return data


def _stage_data(context: ChainContext, data: ReportData, stage: Stage, info: StageInfo | None) -> StageData:
    log = context.workspace.loss_log(stage.name, context.model)
    losses = _try(data, f"losses {stage.name}", partial(read_loss_log, log)) or []
    return StageData(stage, info if isinstance(info, TrainingInfo) else None, losses)


def _stage_info(folder: Path) -> StageInfo | None:
    return read_stage_info(folder) if (folder / TRAINING_INFO).is_file() else None


def _collect_reasoning(context: ChainContext, data: ReportData) -> None:
    folder = context.output(find_reasoning_step())
    if not (folder / REASONING_REPORT).is_file():
        return
    data.reasoning = _try(data, "reasoning", lambda: ReasoningReport.read(folder / REASONING_REPORT))
    if data.reasoning is not None:
        expected = data.reasoning.samples_sha256
        data.samples = _try(data, "samples", lambda: read_samples(folder, expected)) or []


def _try(data: ReportData, part: str, read: Callable[[], T]) -> T | None:
    """What `read` returns; where it cannot be read, a note and None."""
    try:
        return read()
    except LorachainError as error:
        data.notes[part] = without_tokens(str(error))
    except OSError as error:
        data.notes[part] = without_tokens(f"{error.filename}: {(error.strerror or str(error)).lower()}")
    return None
