"""The steps of a chain that a ledger has rows for, and what was already scored of each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorachain.artifacts import (
    InitInfo,
    Measure,
    MergeInfo,
    StageInfo,
    StepModel,
    TrainingInfo,
    ValidationResult,
    read_stage_info,
)
from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history
from lorachain.chain.parents import base_of
from lorachain.chain.stages import Stage, chain_stages, parent_of, stage_of_output
from lorachain.config import Sources, SourceSet, StageConfig, ValidationConfig
from lorachain.registry import weights_folder
from lorachain.workspace import TRAINING_INFO, merged_base

BASE = "base"


@dataclass(slots=True)
class Stored:
    """What a stage scored of a model: it is not scored again."""

    validation: ValidationResult | None = None
    measures: dict[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A model of the chain: the public base, the merged base, or a trained adapter on one of them."""

    name: str
    parent: str | None
    base: Path
    adapter: Path | None
    model: StepModel
    stored: Stored = field(default_factory=Stored)


def step_name(stage: Stage) -> str:
    """The step that a stage results in: a new LoRA on the public base is the base."""
    return BASE if stage.kind == "init" else stage.name


def step_names() -> list[str]:
    """All steps, in the order of the chain."""
    return [step_name(stage) for stage in chain_stages() if stage.kind in ("init", "merge", "training")]


def find_steps(context: ChainContext, unpublished: Mapping[str, Path] | None = None) -> list[Step]:
    """The steps that are there, in the order of the chain.

    Args:
        unpublished: by stage, the directory of an output that is not in its place yet.

    Raises:
        WorkspaceError: a stage's file is damaged. ModelError: the base's weights cannot be had.
    """
    folders = {stage.name: context.output(stage) for stage in chain_stages()} | dict(unpublished or {})
    infos: dict[str, StageInfo] = {}
    for name, folder in folders.items():
        if (folder / TRAINING_INFO).is_file():
            infos[name] = read_stage_info(folder)
    stages = {stage.name: stage for stage in chain_stages()}
    steps = {name: _step(context, stages[name], folders, info) for name, info in infos.items()}
    for name, info in infos.items():
        if isinstance(info, TrainingInfo):
            _add_stored(steps, stages[name], folders[name], info)
    return [steps[stage.name] for stage in chain_stages() if stage.name in steps]


def unmeasured_model(context: ChainContext, base_sha256: str, adapter_sha256: str | None) -> StepModel:
    """The identity of a model that is held as the settings say."""
    return StepModel(
        base_sha256=base_sha256,
        adapter_sha256=adapter_sha256,
        quantization=context.config.quantization,
        dtype=context.config.dtype,
    )


def recorded_context(context: ChainContext, running: str | None = None) -> ChainContext:
    """The context with the settings and sources that finished stages were made with, whatever the command line says.

    A command for one stage does not know the options that another was run with.

    Args:
        running: the stage that is being run; its own settings, those of validation and the exam stay as they are.
    """
    config = context.config
    stages, validation, seed = dict(config.stages), config.validation, config.seed
    named = context.sources.model_dump()
    held: dict[str, Any] = {"dtype": config.dtype, "quantization": config.quantization}
    for stage in chain_stages():
        folder = context.output(stage)
        if stage.kind != "training" or stage.name == running or not (folder / TRAINING_INFO).is_file():
            continue
        info = read_stage_info(folder)
        if not isinstance(info, TrainingInfo):
            continue
        settings = info.depends_on.settings
        try:
            stages[stage.name] = StageConfig(**settings.stage)
            recorded = ValidationConfig(**(validation.model_dump() | settings.validation))
        except ValidationError:  # of another version: what is configured now is as good a choice
            continue
        if stage.source is not None and stage.source != "exam":
            named[stage.source] = [source.name for source in info.sources]
        if running is None:
            validation, seed = recorded, info.depends_on.seed
            held = {"dtype": settings.dtype, "quantization": settings.quantization}
            named["exam"] = [source.name for source in info.exam_sources]
    sources: dict[SourceSet, Sources] = {**config.sources, context.entry.sources: Sources(**named)}
    update = {"stages": stages, "validation": validation, "seed": seed, "sources": sources, "reading": {}, **held}
    return replace(context, config=config.model_copy(update=update))


def _step(context: ChainContext, stage: Stage, folders: Mapping[str, Path], info: StageInfo) -> Step:
    if isinstance(info, InitInfo):
        model = unmeasured_model(context, info.base_sha256, None)
        return Step(BASE, None, weights_folder(context.entry), None, model)
    if isinstance(info, MergeInfo):
        model = unmeasured_model(context, info.base_sha256, None)
        parent = step_name(parent_of(stage))
        return Step(stage.name, parent, merged_base(folders[stage.name]), None, model)
    settings = info.depends_on.settings
    model = StepModel(
        base_sha256=info.base_sha256,
        adapter_sha256=info.adapter_sha256,
        quantization=settings.quantization,
        dtype=settings.dtype,
    )
    parent = step_name(_parent(info))
    return Step(stage.name, parent, base_of(context, stage, info), folders[stage.name], model)


def _parent(info: TrainingInfo) -> Stage:
    return stage_of_output(info.depends_on.parent.folder.partition("/")[0])


def _add_stored(steps: Mapping[str, Step], stage: Stage, folder: Path, info: TrainingInfo) -> None:
    """Adds what a stage scored before training to its parent, and what it scored of its result to itself."""
    history = read_history(folder)
    own, parent = steps[stage.name], steps.get(_parent(info).name)
    scores = {score.epoch: score.result for score in history if score.stage == stage.name}
    own.stored.measures |= info.measures.after
    own.stored.validation = scores.get(info.validation.epoch_kept)
    recorded = info.depends_on.parent
    if parent is None or not same_holding(parent.model, own.model):
        return
    same_adapter = parent.adapter is None or parent.model.adapter_sha256 == recorded.adapter_sha256
    if same_adapter and parent.model.base_sha256 == recorded.base_sha256:
        parent.stored.measures |= info.measures.before
        parent.stored.validation = parent.stored.validation or scores.get(0)


def same_holding(a: StepModel, b: StepModel) -> bool:
    """Whether two models are held in the same type, so that what was scored of one counts for the other."""
    return (a.quantization, a.dtype) == (b.quantization, b.dtype)
