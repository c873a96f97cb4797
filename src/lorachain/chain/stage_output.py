"""The output directory of a training stage: adapter, tokenizer, scores, and training_info.json."""

import time
from typing import Any

from torch import Tensor

from lorachain.artifacts import EpochScore, Measure, TrainingInfo
from lorachain.artifacts.stages import Measures, ReplayedData, StageValidation, TrainingFacts
from lorachain.artifacts.validation import ProtocolScore
from lorachain.atomic import atomic_folder
from lorachain.chain.context import stage_config, training_sources
from lorachain.chain.history import write_history
from lorachain.chain.runtime import Runtime
from lorachain.chain.source_records import source_records
from lorachain.chain.stage_run import StageRun
from lorachain.chain.touched import touched_measures, touched_questions
from lorachain.memory import peak
from lorachain.provenance import adapter_sha256, git_commit, package_versions
from lorachain.training.progress import Progress
from lorachain.weights.load import load_tokenizer
from lorachain.weights.lora import PeftModel, read_adapter_config, save_adapter
from lorachain.workspace import TRAINING_INFO


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
    before = run.record.before or {}
    touched, protocol = touched_questions(context, run.stage), context.entry.answer_style
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
            measures=Measures(
                before=before | touched_measures(run.record.score_of(0), protocol, touched),
                after=after | touched_measures(kept, protocol, touched),
            ),
            configuration=_configuration(run),
            versions=package_versions(),
            git_commit=git_commit(),
        )
        info.write(staging / TRAINING_INFO)


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
        layers=progress.layers,
        memory_changes=tuple(progress.memory_changes),
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
