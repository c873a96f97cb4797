"""One training stage, from its parent's adapter to a trained directory: load, measure, fit, select, check, publish."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lorachain.artifacts import EpochScore, Measure, TrainingInfo, read_stage_info
from lorachain.artifacts.stages import (
    DataIdentity,
    Measures,
    ParentIdentity,
    ReplayedData,
    StageSettings,
    StageValidation,
    TrainingFacts,
    TrainingInputs,
)
from lorachain.artifacts.validation import ProtocolScore
from lorachain.atomic import atomic_folder, move_folder, require_space
from lorachain.chain.context import ChainContext, deciding_settings, stage_config, training_sources
from lorachain.chain.debug_log import step_summary
from lorachain.chain.exams import ExamQuestions, load_exam_questions
from lorachain.chain.history import read_history, score_epoch, write_history
from lorachain.chain.ledger_steps import Stored
from lorachain.chain.parents import Parent, find_parent
from lorachain.chain.replay import Replay, load_replay
from lorachain.chain.resume import ResumePoint, drop_after, find_resume_point
from lorachain.chain.run_record import RunRecord, open_run
from lorachain.chain.runtime import Runtime
from lorachain.chain.source_records import source_records, sources_hash
from lorachain.chain.stage_ledger import StageLedger
from lorachain.chain.stages import Stage
from lorachain.chain.tasks.base import StageTask, TaskInputs
from lorachain.data.normalization import NORMALIZATION_VERSION
from lorachain.errors import GateError
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.validation import validate
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.memory import peak, reset_peak
from lorachain.provenance import ADAPTER_WEIGHTS, adapter_sha256, git_commit, package_versions, sha256_json
from lorachain.tokens import TokenEncoder
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.checkpoints import checkpoint_directory
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.sharding import shard_layers
from lorachain.training.trainer import train
from lorachain.weights.load import load_model, load_tokenizer, tokenizer_sha256
from lorachain.weights.lora import PeftModel, load_adapter, read_adapter_config, save_adapter, set_adapter_tensors
from lorachain.weights.quantized import require_quantizer
from lorachain.workspace import TRAINING_INFO

logger = logging.getLogger(__name__)

_CHECKPOINT_FACTOR = 8
"""A checkpoint is the adapter and three float32 copies of it; `keep_checkpoints` of them and the best are on disk."""


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


def train_stage(context: ChainContext, runtime: Runtime, stage: Stage) -> None:
    """Trains `stage` and writes its output directory; what an interrupted run has done is used again.

    Raises:
        WorkspaceError: no parent, or no space. DataError: a source. AdapterError: the parent does not fit its base.
        TrainingInterrupted: on a signal, after saving.
    """
    reset_peak(runtime.device)
    inputs = load_inputs(context, runtime, stage)
    record = open_record(context, runtime, stage, inputs.fingerprint)
    ledger = StageLedger(context, runtime, stage, inputs.parent.base, inputs.encoder, inputs.task)
    run = StageRun(context, runtime, stage, inputs, record, ledger)
    model = None
    if not runtime.processes.broadcast(lambda: is_unpublished(run)):
        model = train_and_write(run)
    check_gates(run, model)
    if runtime.processes.main:
        move_folder(run.unpublished, context.output(stage))
    runtime.processes.wait()


def train_and_write(run: StageRun) -> PeftModel:
    """Trains the stage and writes its output directory, which is not published yet; returns the model."""
    context, runtime, inputs = run.context, run.runtime, run.inputs
    if runtime.processes.main:
        run.ledger.measure_earlier()
    model = load_trainable_model(context, runtime, inputs.parent)
    measure(run, model)
    progress, tensors = fit(run, model)
    kept = runtime.processes.broadcast(lambda: select(run))
    if kept.step < progress.step:
        tensors = load_file(checkpoint_directory(run.folder, kept.step) / ADAPTER_WEIGHTS)
    set_adapter_tensors(model, tensors)
    after = runtime.processes.on_main(lambda: inputs.task.measure(model))
    if after is not None:
        write_output(run, model, tensors, progress, kept, after)
    return model


def is_unpublished(run: StageRun) -> bool:
    """Whether this very run is trained and only waits to be published: a gate stopped it, or it was killed."""
    path = run.unpublished / TRAINING_INFO
    return path.is_file() and read_stage_info(run.unpublished).depends_on_sha256 == run.inputs.fingerprint


def check_gates(run: StageRun, model: PeftModel | None) -> None:
    """Measures the result and evaluates the gates, in the main process; all processes stop where one fails.

    Raises:
        GateError: a gate stopped the stage.
    """

    def problem() -> str | None:
        kept = f"Its adapter is kept in {run.unpublished}."
        try:
            run.ledger.check(run.unpublished, model, kept)
        except GateError as error:
            return str(error)
        return None

    if message := run.runtime.processes.broadcast(problem):
        raise GateError(message)


def load_inputs(context: ChainContext, runtime: Runtime, stage: Stage) -> StageInputs:
    """Finds the parent, reads the exam's dev split once, and loads and tokenizes the stage's data."""
    config = context.config
    require_quantizer(config.quantization)  # before the data is read, which may take long
    parent = find_parent(context, stage)
    parent_identity = ParentIdentity(**parent.identity())  # reads its files: a missing one is an AdapterError
    adapter_bytes = (parent.folder / ADAPTER_WEIGHTS).stat().st_size
    require_space(context.workspace.training(stage.name, context.model), adapter_bytes * _CHECKPOINT_FACTOR)
    encoder = TokenEncoder(load_tokenizer(parent.base))
    questions = load_exam_questions(
        context.sources.exam,
        max_questions=config.validation.max_questions,
        skip_bad_rows=context.skip_bad_rows,
    )
    task_inputs = TaskInputs(
        encoder=encoder,
        stage=stage_config(config, stage),
        validation=config.validation,
        seed=config.seed,
        sources=training_sources(context, stage),
        dev=questions.dev,
        held_out=questions.held_out,
        answer_style=context.entry.answer_style,
        cache=context.workspace.token_cache(stage.name, context.model, runtime.processes.rank),
        tokenizer_sha256=tokenizer_sha256(parent.base),
        skip_bad_rows=context.skip_bad_rows,
        on_message=context.reporter.message,
    )
    task = stage.load_task()(task_inputs)
    replay = load_replay(context, stage, task_inputs, task, rank=runtime.processes.rank)
    context.reporter.message(
        f"stage {stage.name}, {stage.title}: {context.model} on {runtime.device}, "
        + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in task.counts.items() if count)
    )
    if "questions_with_reasoning" in task.counts and not task.counts["questions_with_reasoning"]:
        context.reporter.message(
            "no training question has reasoning: answers alone are trained. Write some with: "
            + context.command("write-reasoning")
        )
    depends_on = TrainingInputs(
        parent=parent_identity,
        data=DataIdentity(
            sources=sources_hash([*task.sources, *(replay.sources if replay else ())]),
            dev=sources_hash(questions.sources),
        ),
        settings=StageSettings(**deciding_settings(config, context.entry, stage)),
        seed=config.seed,
        normalization=NORMALIZATION_VERSION,
    )
    return StageInputs(
        parent=parent,
        encoder=encoder,
        questions=questions,
        task=task,
        replay=replay,
        depends_on=depends_on,
        fingerprint=sha256_json(depends_on.as_dict()),
        inherited=read_history(parent.folder),
    )


def open_record(context: ChainContext, runtime: Runtime, stage: Stage, fingerprint: str) -> RunRecord:
    """The record of this run; other processes than the main one keep none."""
    path = context.workspace.run_state(stage.name, context.model)
    if not runtime.processes.main:
        return RunRecord(path, fingerprint)
    record = open_run(path, fingerprint, context.workspace.superseded(stage.name, context.model), context.ask)
    if record.moved_to:
        context.reporter.message(
            f"an earlier run of stage {stage.name} had other settings or data, or its record is damaged or of an older "
            f"lorachain: it was moved to {record.moved_to}, and the stage starts from the beginning"
        )
    return record


def load_trainable_model(context: ChainContext, runtime: Runtime, parent: Parent) -> PeftModel:
    """The parent's adapter on its base, ready to train."""
    base = load_model(parent.base, runtime.device, runtime.dtype, context.config.quantization)
    model = load_adapter(base, parent.folder, trainable=True)
    if runtime.processes.sharded:
        shard_layers(model)
    return model


def measure(run: StageRun, model: PeftModel) -> None:
    """The stage's own measures and the exam before training, unless an interrupted run has measured them."""
    processes, record = run.runtime.processes, run.record
    measured, validated = processes.broadcast(lambda: (record.before is not None, record.score_of(0) is not None))
    if not measured and (before := processes.on_main(lambda: run.inputs.task.measure(model))) is not None:
        record.before = before
        record.write()
    if not validated:
        _record_score(
            run, lambda: _inherited_start(run) or _start_in_ledger(run) or _validate(run, model, epoch=0, step=0)
        )
    if processes.main and (start := record.score_of(0)) is not None:
        stored = Stored(start.result, dict(record.before or {}))
        run.ledger.measure_parent(None if processes.sharded else model, stored)
    processes.wait()


def make_schedule(run: StageRun) -> BatchSchedule:
    """Which packs each optimizer step trains on."""
    config, inputs = run.context.config, run.inputs
    settings = stage_config(config, run.stage)
    schedule = BatchSchedule(
        inputs.task.packs_of_epoch,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch_tokens=config.training.micro_batch_tokens,
        pad_id=inputs.encoder.pad_id,
        seed=config.seed,
        share=run.runtime.processes.share,
        replay_of_epoch=inputs.replay.packs_of_epoch if inputs.replay else None,
    )
    if settings.supervised_tokens is not None:
        schedule.steps = schedule.steps_nearest(settings.supervised_tokens)
    return schedule


def fit(run: StageRun, model: PeftModel) -> tuple[Progress, dict[str, Tensor]]:
    """Trains, validating each epoch; returns the progress and the adapter's float32 tensors after the last step."""
    context, processes = run.context, run.runtime.processes
    config, settings = context.config, stage_config(context.config, run.stage)
    schedule = make_schedule(run)
    for pool in run.inputs.replay.pools if run.inputs.replay else ():
        for shortage in pool.shortages(-(-len(schedule) // schedule.steps_per_epoch)):
            context.reporter.message(shortage)
    point = processes.broadcast(lambda: _resume_point(run))

    with context.reporter.bar(f"training {run.stage.name}", len(schedule)) as bar:
        if point.search.step:
            bar(point.search.step, "resumed")

        def on_step(progress: Progress) -> None:
            rate = progress.tokens / max(progress.seconds, 1e-9)
            logger.info(step_summary(run.step_marker, progress.step, len(schedule), progress.losses[-1]))
            bar(progress.step, f"loss {progress.losses[-1]:.3f} · {rate:,.0f} tokens/s")

        def on_epoch_end(epoch: int, step: int) -> bool:
            _record_score(run, lambda: _validate(run, model, epoch=epoch, step=step))
            best = run.record.best(run.selecting_protocol) if run.selecting_protocol else None
            return best is not None and best.epoch == epoch

        return train(
            model,
            schedule,
            TrainingSettings(
                learning_rate=settings.learning_rate,
                seed=config.seed,
                **config.training.model_dump(exclude={"micro_batch_tokens"}),
            ),
            run=run.folder,
            fingerprint=run.inputs.fingerprint,
            on_epoch_end=on_epoch_end,
            on_step=on_step,
            on_message=context.reporter.message,
            checkpoint=point.search,
            best_step=point.best_step,
            processes=processes,
        )


def select(run: StageRun) -> EpochScore:
    """The epoch that becomes the output: the best, or the last, as the stage table says."""
    last = max(run.record.scores, key=lambda score: score.epoch)
    best = run.record.best(run.selecting_protocol) if run.selecting_protocol else None
    if best is None or best.epoch == last.epoch:
        return last
    run.context.reporter.message(f"epoch {best.epoch} of {last.epoch} has the best dev score and is kept")
    return best


def write_output(
    run: StageRun,
    model: PeftModel,
    tensors: dict[str, Tensor],
    progress: Progress,
    kept: EpochScore,
    after: dict[str, Measure],
) -> None:
    """Writes the output directory: the adapter, the tokenizer, every score, and training_info.json.

    It is in the training directory until the gates have passed.
    """
    context, inputs = run.context, run.inputs
    with atomic_folder(run.unpublished) as staging:
        save_adapter(model, staging, tensors)
        load_tokenizer(inputs.parent.folder).save_pretrained(staging)
        write_history(staging, [*inputs.inherited, *sorted(run.record.scores, key=lambda score: score.epoch)])
        info = TrainingInfo(
            stage=run.stage.name,
            model=context.model,
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            depends_on=inputs.depends_on,
            depends_on_sha256=inputs.fingerprint,
            base=inputs.parent.info.base,
            base_sha256=inputs.parent.info.base_sha256,
            adapter_sha256=adapter_sha256(staging),
            sources=source_records(inputs.task.sources),
            exam_sources=source_records(inputs.questions.sources),
            counts=inputs.task.counts,
            replay=_replayed(run, progress),
            training=_training_facts(progress, run.runtime),
            validation=StageValidation(
                selected_by=context.entry.answer_style,
                before=_headlines(run.record.score_of(0)),
                after=_headlines(kept) or {},
                epoch_kept=kept.epoch,
            ),
            measures=Measures(before=run.record.before or {}, after=after),
            configuration=_configuration(run),
            versions=package_versions(),
            git_commit=git_commit(),
        )
        info.write(staging / TRAINING_INFO)


def _record_score(run: StageRun, validation: Callable[[], EpochScore]) -> None:
    processes = run.runtime.processes
    score = processes.on_main(validation)
    if score is not None:
        run.record.put(score)
    processes.wait()


def _inherited_start(run: StageRun) -> EpochScore | None:
    """The parent's last score, where this stage starts with the very model that it belongs to."""
    inputs = run.inputs
    same_model = isinstance(inputs.parent.info, TrainingInfo) and inputs.parent.info.stage == run.stage.parent
    if not same_model or not inputs.inherited or not _held_as_in_parent(inputs):
        return None
    last = inputs.inherited[-1]
    if last.result.data_sha256 != question_set_hash(inputs.questions.dev) or not _is_kept_epoch(inputs.parent, last):
        return None
    return score_epoch(run.stage.name, 0, 0, last.result, inputs.inherited)


def _start_in_ledger(run: StageRun) -> EpochScore | None:
    """The parent's score in the ledger, where the same model was scored on the same questions."""
    chosen = run.ledger.exam_answers(question_set_hash(run.inputs.questions.dev))
    if chosen is None:
        return None
    result = summarize_validation(run.inputs.questions.dev, chosen, "dev", 0.0)
    return score_epoch(run.stage.name, 0, 0, result, run.inputs.inherited)


def _is_kept_epoch(parent: Parent, score: EpochScore) -> bool:
    """Whether the score belongs to the adapter that the parent published."""
    return isinstance(parent.info, TrainingInfo) and parent.info.validation.epoch_kept == score.epoch


def _held_as_in_parent(inputs: StageInputs) -> bool:
    """Whether the base is held in the same type as when the parent was validated."""
    if not isinstance(inputs.parent.info, TrainingInfo):
        return False
    before, now = inputs.parent.info.depends_on.settings, inputs.depends_on.settings
    return (before.dtype, before.quantization) == (now.dtype, now.quantization)


def _validate(run: StageRun, model: PeftModel, *, epoch: int, step: int) -> EpochScore:
    questions = run.inputs.questions.dev
    budget = run.context.config.validation.token_budget
    with run.context.reporter.bar(f"validating on {len(questions)} dev questions", len(questions)) as bar:
        result = validate(model, run.inputs.encoder, questions, token_budget=budget, on_progress=bar)
    return score_epoch(run.stage.name, epoch, step, result, [*run.inputs.inherited, *run.record.scores])


def _resume_point(run: StageRun) -> ResumePoint:
    point = find_resume_point(run.folder, run.record, run.selecting_protocol)
    log = run.context.workspace.debug_log(run.stage.name)
    drop_after(point.search.step, run.record, log, run.step_marker)
    return point


def _headlines(score: EpochScore | None) -> dict[str, ProtocolScore] | None:
    if score is None:
        return None
    return {protocol: result.headline for protocol, result in score.result.protocols.items()}


def _replayed(run: StageRun, progress: Progress) -> tuple[ReplayedData, ...]:
    if run.inputs.replay is None:
        return ()
    packs = len(run.inputs.task.packs_of_epoch(0))
    steps_per_epoch = -(-packs // stage_config(run.context.config, run.stage).batch_size)
    return run.inputs.replay.record(progress.step, steps_per_epoch, progress.supervised_tokens)


def _training_facts(progress: Progress, runtime: Runtime) -> TrainingFacts:
    losses = progress.losses
    return TrainingFacts(
        optimizer_steps=progress.step,
        tokens=progress.tokens,
        supervised_tokens=progress.supervised_tokens,
        seconds=round(progress.seconds, 1),
        tokens_per_second=round(progress.tokens / max(progress.seconds, 1e-9), 1),
        peak_memory_bytes=peak(runtime.device),
        loss_first=losses[0],
        loss_last_tenth=sum(losses[-max(1, len(losses) // 10) :]) / max(1, len(losses) // 10),
        losses=tuple(losses),
        device=str(runtime.device),
    )


def _configuration(run: StageRun) -> dict[str, Any]:
    """The settings that were used. A stage's LoRA is its parent's, whatever the settings say of a new one."""
    context = run.context
    config = context.config.model_dump(mode="json", include={"name", "seed", "dtype", "quantization"})
    adapter = read_adapter_config(run.inputs.parent.folder)
    return {
        **config,
        "device": str(run.runtime.device),
        "lora": {
            "rank": adapter.get("r"),
            "alpha": adapter.get("lora_alpha"),
            "dropout": adapter.get("lora_dropout"),
            "use_rslora": adapter.get("use_rslora"),
            "target_modules": adapter.get("target_modules"),
        },
        "training": context.config.training.model_dump(mode="json"),
        "validation": context.config.validation.model_dump(mode="json"),
        "stage": stage_config(context.config, run.stage).model_dump(mode="json"),
        "sources": {
            run.stage.source: training_sources(context, run.stage),
            "exam": context.sources.exam,
        },
    }
