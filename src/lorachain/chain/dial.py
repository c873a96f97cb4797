"""A trained adapter at several scales, without training: the largest that passes the gates can be applied."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lorachain.artifacts import (
    DialPoint,
    DialRecord,
    DialReport,
    LedgerStep,
    Measure,
    ValidationResult,
    read_training_info,
)
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.gates import evaluate_gates, is_measure_of
from lorachain.chain.hidden_states import HiddenStates
from lorachain.chain.history import read_history, score_epoch, write_history
from lorachain.chain.ledger import LoadedModel, compared, put_row, read_ledger, with_cells
from lorachain.chain.ledger_data import LedgerData, load_stage_task
from lorachain.chain.ledger_jobs import Job, Subject, jobs
from lorachain.chain.ledger_steps import Step, Stored, find_steps
from lorachain.chain.stages import Stage
from lorachain.errors import ConfigError, GateError, WorkspaceError
from lorachain.evaluation.validation import validate
from lorachain.provenance import adapter_sha256
from lorachain.tokens import TokenEncoder
from lorachain.weights.dial import Variant, adapter_tensors_of, scaled_tensors, write_tensors
from lorachain.weights.lora import PeftModel, set_adapter_tensors
from lorachain.workspace import TRAINING_INFO

SCALES = (0.9, 0.75, 0.5, 0.25, 0.1)


@dataclass(slots=True)
class Dial:
    """A stage's adapter, on disk and in memory, and what was measured of its scales."""

    context: ChainContext
    stage: Stage
    folder: Path
    """The adapter's directory: published, or not yet."""
    variant: Variant
    data: LedgerData
    load: Callable[[], LoadedModel]
    step: Step
    report: DialReport
    loaded: tuple[PeftModel, TokenEncoder] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.context.workspace.dial(self.stage.name, self.context.model, self.variant)

    def model(self, scale: float) -> tuple[PeftModel, TokenEncoder]:
        """The model with its adapter at a scale."""
        if self.loaded is None:
            model, encoder = self.load()
            if not isinstance(model, PeftModel):
                raise ValueError("a dial needs a model with an adapter")
            self.loaded, self.tensors = (model, encoder), adapter_tensors_of(self.folder)
        model, encoder = self.loaded
        set_adapter_tensors(model, scaled_tensors(self.tensors, scale, self.variant))
        return model, encoder


def open_dial(
    context: ChainContext, stage: Stage, variant: Variant, data: LedgerData, load: Callable[[Step], LoadedModel]
) -> Dial:
    """The dial of a stage's adapter as it was trained, with what is measured of it already.

    Raises:
        WorkspaceError: the stage has no adapter, or it was scaled already.
    """
    folder = adapter_folder(context, stage)
    info = read_training_info(folder)
    if info.dial is not None:
        raise WorkspaceError(
            f"{folder} was scaled by {info.dial.scale:g} ({info.dial.variant}) already; train the stage again to dial "
            "the adapter as it was trained"
        )
    step = next(step for step in find_steps(context, {stage.name: folder}) if step.name == stage.name)
    path = context.workspace.dial(stage.name, context.model, variant)
    report = DialReport.read(path) if path.exists() else None
    if report is None or report.model != step.model:
        report = DialReport(stage=stage.name, variant=variant, model=step.model)
    return Dial(context, stage, folder, variant, data, lambda: load(step), step, report)


def adapter_folder(context: ChainContext, stage: Stage) -> Path:
    """The stage's adapter: the one that waits to be published, or else the published one.

    Raises:
        WorkspaceError: there is neither.
    """
    for folder in (context.workspace.unpublished(stage.name, context.model), context.output(stage)):
        if (folder / TRAINING_INFO).is_file():
            return folder
    raise WorkspaceError(f"{context.output(stage)} is missing; create it with: {context.command(stage.command)}")


def check_scales(scales: Sequence[float]) -> list[float]:
    """The scales, the largest first.

    Raises:
        ConfigError: one is not between 0 and 1.
    """
    for scale in scales:
        if not 0 <= scale <= 1:
            raise ConfigError(f"--scales has {scale:g}; allowed: numbers from 0 (the base) to 1 (as trained)")
    return sorted(set(scales), reverse=True)


def measure_scale(dial: Dial, scale: float, *, gated_only: bool = False, stored: Stored | None = None) -> DialPoint:
    """Measures what is missing at one scale, writing the report after each job.

    Args:
        gated_only: only the measures that the gates are for.
        stored: what was scored at this scale already.
    """
    context = dial.context
    ledger = read_ledger(context)
    states = HiddenStates(context, dial.step, ledger.step("base"))
    planned = [job for job in jobs(dial.data, intruder_layers=1) if not job.of_adapters_only and states.available(job)]
    if gated_only:
        planned = [job for job in planned if _is_gated(context, job)]
    row = next((point.row for point in dial.report.points if point.scale == scale), None)
    row = row or LedgerStep(name=dial.step.name, parent=dial.step.parent, model=dial.step.model)
    with context.reporter.bar(f"dial {dial.stage.name} at {scale:g}", len(planned)) as bar:
        for number, job in enumerate(planned, start=1):
            if not job.is_scored_in(row):
                copied = job.reuse(stored) if stored is not None else None
                row = with_cells(row, copied or job.score(_subject(dial, scale, states)))
                _put(dial, DialPoint(scale=scale, row=row, passes=False))
            bar(number, job.measures[0])
    row = compared(row, ledger)
    gates = evaluate_gates(context.config.gates, row, ledger, context.entry.answer_style)
    row = row.model_copy(update={"gates": gates})
    point = DialPoint(scale=scale, row=row, passes=all(gate.outcome == "passed" for gate in gates))
    _put(dial, point)
    return point


def largest_passing(dial: Dial, scales: Sequence[float] = SCALES, *, gated_only: bool = False) -> DialPoint:
    """The point of the largest of `scales` that passes every gate; smaller ones are not measured.

    Raises:
        GateError: none does.
    """
    for scale in check_scales(scales):
        point = measure_scale(dial, scale, gated_only=gated_only)
        if point.passes:
            return point
    tried = ", ".join(f"{scale:g}" for scale in check_scales(scales))
    raise GateError(
        f"no scale of {tried} of stage {dial.stage.name} passes every gate; see {dial.path}, tolerate more in [gates], "
        "or train the stage with other settings or data"
    )


def apply_scale(dial: Dial, scale: float) -> DialPoint:
    """Writes the scaled adapter in place of the trained one, with its own scores.

    Its row replaces that of the trained adapter in the ledger. Later stages become stale, as they start from another
    adapter.
    """
    context, stage = dial.context, dial.stage
    model, encoder = dial.model(scale)
    exam = load_exam_questions(
        context.sources.exam,
        max_questions=context.config.validation.max_questions,
        skip_bad_rows=context.skip_bad_rows,
    )
    result = validate(model, encoder, exam.dev, token_budget=context.config.validation.token_budget)
    measures = load_stage_task(context, stage, dial.step.base, encoder).measure(model)
    point = measure_scale(dial, scale, stored=Stored(result, measures))
    with atomic_folder(dial.folder) as staging:
        shutil.copytree(dial.folder, staging, dirs_exist_ok=True)
        write_tensors(staging, scaled_tensors(dial.tensors, scale, dial.variant))
        _write_scores(dial, staging, scale, result, measures)
    scaled = dial.step.model.model_copy(update={"adapter_sha256": adapter_sha256(dial.folder)})
    put_row(context, point.row.model_copy(update={"model": scaled}))
    return point


def _write_scores(
    dial: Dial, staging: Path, scale: float, result: ValidationResult, measures: dict[str, Measure]
) -> None:
    """training_info.json and the history say what the scaled adapter scores, not what the trained one did."""
    info = read_training_info(staging)
    history = read_history(staging)
    kept = next(
        score
        for score in reversed(history)
        if score.stage == dial.stage.name and score.epoch == info.validation.epoch_kept
    )
    score = score_epoch(dial.stage.name, kept.epoch, kept.step, result, history)
    write_history(staging, [*history, score])
    after = {name: protocol.headline for name, protocol in result.protocols.items()}
    info.model_copy(
        update={
            "adapter_sha256": adapter_sha256(staging),
            "validation": info.validation.model_copy(update={"after": after}),
            "measures": info.measures.model_copy(update={"after": measures}),
            "dial": DialRecord(
                scale=scale, variant=dial.variant, original_adapter_sha256=str(dial.step.model.adapter_sha256)
            ),
        }
    ).write(staging / TRAINING_INFO)


def _subject(dial: Dial, scale: float, states: HiddenStates) -> Subject:
    model, encoder = dial.model(scale)
    budget = dial.context.config.validation.token_budget

    def hidden_states(digest: str, prompts: Sequence[Sequence[int]]) -> list[Tensor] | None:
        return states.of_base(digest, prompts, model, budget)

    return Subject(model, encoder, budget, dial.step.base, dial.folder, hidden_states)


def _is_gated(context: ChainContext, job: Job) -> bool:
    return any(is_measure_of(name, measure) for measure in job.measures for name in context.config.gates)


def _put(dial: Dial, point: DialPoint) -> None:
    points = {other.scale: other for other in dial.report.points} | {point.scale: point}
    ordered = tuple(points[scale] for scale in sorted(points, reverse=True))
    dial.report = dial.report.model_copy(update={"points": ordered})
    dial.report.write(dial.path)
