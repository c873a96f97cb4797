"""One training stage, from its parent's adapter to a trained directory: load, measure, fit, select, check, publish."""

import logging
from functools import partial

from safetensors.torch import load_file
from torch import Tensor

from lorachain.artifacts import EpochScore, read_stage_info
from lorachain.artifacts.stages import DataIdentity, ParentIdentity, StageSettings, TrainingInputs
from lorachain.atomic import move_folder, require_space
from lorachain.chain.context import ChainContext, deciding_settings, stage_config, training_sources
from lorachain.chain.debug_log import step_summary
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.history import read_history
from lorachain.chain.ledger_steps import Stored
from lorachain.chain.parents import Parent, find_parent
from lorachain.chain.reasoning_state import samples_identity
from lorachain.chain.replay import Replay, load_replay
from lorachain.chain.resume import ResumePoint, drop_after, find_resume_point
from lorachain.chain.run_record import RunRecord, open_run
from lorachain.chain.runtime import Runtime
from lorachain.chain.source_records import sources_hash
from lorachain.chain.stage_ledger import StageLedger
from lorachain.chain.stage_output import write_output
from lorachain.chain.stage_run import StageInputs, StageRun
from lorachain.chain.stage_scores import record_score, start_score, validate_epoch
from lorachain.chain.stages import Stage
from lorachain.chain.task_inputs import task_inputs
from lorachain.chain.tasks.base import Measures, StageTask
from lorachain.config import StageConfig
from lorachain.data.normalization import NORMALIZATION_VERSION
from lorachain.inference.shared_work import shared_inference
from lorachain.memory import reset_peak
from lorachain.prompts import PROMPT_VERSION
from lorachain.provenance import ADAPTER_WEIGHTS, sha256_json
from lorachain.tokens import TokenEncoder
from lorachain.training.batch_schedule import BatchSchedule, PacksOfEpoch
from lorachain.training.checkpoints import checkpoint_directory
from lorachain.training.layers import check_compile
from lorachain.training.progress import PreferenceSettings, Progress, TrainingSettings
from lorachain.training.trackers import Tracking
from lorachain.training.trainer import train
from lorachain.weights.load import drop_vision_tower, load_model, load_tokenizer
from lorachain.weights.lora import PeftModel, load_adapter, set_adapter_tensors
from lorachain.weights.quantized import require_quantizer
from lorachain.workspace import TRAINING_INFO

logger = logging.getLogger(__name__)

_CHECKPOINT_FACTOR = 8
"""A checkpoint is the adapter and three float32 copies of it; `keep_checkpoints` of them and the best are on disk."""


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
    after = task_measures(run, model)
    if runtime.processes.main:
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
    kept = f"Its adapter is kept in {run.unpublished}."
    run.runtime.processes.broadcast(lambda: run.ledger.check(run.unpublished, model, kept))


def load_inputs(context: ChainContext, runtime: Runtime, stage: Stage) -> StageInputs:
    """Finds the parent, reads the exam's dev split once, and loads and tokenizes the stage's data."""
    config = context.config
    require_quantizer(config.quantization)  # before the data is read, which may take long
    check_compile(config.training.compile, runtime.device, config.quantization)
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
    inputs = task_inputs(
        context,
        stage,
        training_sources(context, stage),
        questions,
        base=parent.base,
        encoder=encoder,
        cache=context.workspace.token_cache(stage.name, context.model),
        on_message=context.reporter.message,
    )

    def load_data() -> tuple[StageTask, Replay | None]:
        task = stage.load_task()(inputs)
        return task, load_replay(context, stage, inputs, task)

    task, replay = runtime.processes.first_on_each_node(load_data)
    context.reporter.message(
        f"stage {stage.name}, {stage.title}: {context.model} on {runtime.device}, "
        + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in task.counts.items() if count)
    )
    depends_on = TrainingInputs(
        parent=parent_identity,
        data=DataIdentity(
            sources=sources_hash([*task.sources, *(replay.sources if replay else ())]),
            dev=sources_hash(questions.sources),
            samples=samples_identity(context, stage),
        ),
        settings=StageSettings(**deciding_settings(config, context.entry, stage)),
        seed=config.seed,
        normalization=NORMALIZATION_VERSION,
        prompt_version=PROMPT_VERSION,
    )
    return StageInputs(
        parent=parent,
        encoder=encoder,
        questions=questions,
        task=task,
        replay=replay,
        depends_on=depends_on,
        fingerprint=sha256_json(depends_on.identity()),
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
    base = load_model(parent.base, runtime.loading_device, runtime.dtype, context.config.quantization)
    drop_vision_tower(base)
    model = load_adapter(base, parent.folder, trainable=True)
    runtime.distribute(model)
    return model


def measure(run: StageRun, model: PeftModel) -> None:
    """The stage's own measures and the exam before training, unless an interrupted run has measured them."""
    processes, record = run.runtime.processes, run.record
    measured, validated = processes.broadcast(lambda: (record.before is not None, record.score_of(0) is not None))
    if not measured:
        before = task_measures(run, model)
        if processes.main:
            record.before = before
            record.write()
    if not validated:
        record_score(run, start_score(run, model))
    if processes.main and (start := record.score_of(0)) is not None:
        stored = Stored(start.result, dict(record.before or {}))
        run.ledger.measure_parent(None if processes.sharded else model, stored)
    processes.wait()


def task_measures(run: StageRun, model: PeftModel) -> Measures:
    """What the stage should improve besides the exam; the processes share the work."""
    with shared_inference(run.runtime.processes), run.context.reporter.bar(f"measuring {run.stage.name}", 1):
        return run.inputs.task.measure(model)


def make_schedule(run: StageRun) -> BatchSchedule:
    """Which packs each optimizer step trains on."""
    config, inputs = run.context.config, run.inputs
    settings = stage_config(config, run.stage)
    schedule = BatchSchedule(
        _written_once(run, inputs.task.packs_of_epoch),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch_tokens=config.training.micro_batch_tokens,
        pad_id=inputs.encoder.pad_id,
        seed=config.seed,
        processes=run.runtime.processes,
        replay_of_epoch=_written_once(run, inputs.replay.packs_of_epoch) if inputs.replay else None,
    )
    if settings.supervised_tokens is not None:
        schedule.steps = schedule.steps_nearest(settings.supervised_tokens)
    return schedule


def _written_once(run: StageRun, packs_of_epoch: PacksOfEpoch) -> PacksOfEpoch:
    """The packs of an epoch, whose tokens one process of each node writes when the epoch begins."""
    return lambda epoch: run.runtime.processes.first_on_each_node(partial(packs_of_epoch, epoch))


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
            record_score(run, validate_epoch(run, model, epoch=epoch, step=step))
            best = run.record.best(run.selecting_protocol) if run.selecting_protocol else None
            return best is not None and best.epoch == epoch

        return train(
            model,
            schedule,
            TrainingSettings(
                learning_rate=settings.learning_rate,
                seed=config.seed,
                preference=preference_settings(settings),
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
            tracking=Tracking(
                to=tuple(config.tracking.to),
                folder=context.workspace.tracking(context.model),
                run=f"{run.stage.name}-{run.inputs.fingerprint[:12]}",
            ),
        )


def preference_settings(settings: StageConfig) -> PreferenceSettings | None:
    """How a stage trains pairs of answers; None where it trains none."""
    beta, weight = settings.preference_beta, settings.preference_weight
    return PreferenceSettings(beta, weight) if beta is not None and weight is not None else None


def select(run: StageRun) -> EpochScore:
    """The epoch that becomes the output: the best, or the last, as the stage table says."""
    last = max(run.record.scores, key=lambda score: score.epoch)
    best = run.record.best(run.selecting_protocol) if run.selecting_protocol else None
    if best is None or best.epoch == last.epoch:
        return last
    run.context.reporter.message(f"epoch {best.epoch} of {last.epoch} has the best dev score and is kept")
    return best


def _resume_point(run: StageRun) -> ResumePoint:
    point = find_resume_point(run.folder, run.record, run.selecting_protocol)
    log = run.context.workspace.debug_log(run.stage.name)
    drop_after(point.search.step, run.record, log, run.step_marker)
    return point
