"""The state of a stage: fresh, stale, partial, running or missing. Decided by content, never by dates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorachain.artifacts import InitInfo, MergeInfo, StageInfo, TrainingInfo, read_stage_info
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.artifacts.stages import ReplayedData, SourceRecord
from lorachain.chain.context import ChainContext, deciding_settings, training_sources
from lorachain.chain.made_from import init_inputs, merge_inputs
from lorachain.chain.reasoning_state import (
    is_interrupted,
    is_written,
    samples_sha256,
    why_not_written,
    why_reasoning_is_stale,
)
from lorachain.chain.stages import Stage, parent_of, stage_of_output
from lorachain.data.normalization import NORMALIZATION_VERSION
from lorachain.data.staleness import Reading, changed_since
from lorachain.errors import LorachainError
from lorachain.prompts import PROMPT_VERSION
from lorachain.provenance import adapter_sha256, sha256_json
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO, checkpoint_steps

Condition = Literal["fresh", "stale", "partial", "running", "missing", "off"]
"""`off`: a step that the settings leave out."""
READINGS: dict[str, Reading] = {
    "plain_text": "plain text",
    "dictionary": "dictionary",
    "exam": "exam for training",
    "instruct": "instructions",
    "known": "dictionary",
}


@dataclass(frozen=True, slots=True)
class StageState:
    """The state of one stage, and the reason where it is not fresh."""

    stage: Stage
    condition: Condition
    folder: Path
    info: StageInfo | None = None
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether there is nothing to run."""
        return self.condition in ("fresh", "off")


def stage_state(
    context: ChainContext,
    stage: Stage,
    *,
    as_configured: bool = True,
    ask_hub: bool = False,
) -> StageState:
    """Compares what the stage was made from with what is there now.

    Args:
        as_configured: also with the current settings and sources; otherwise only with what is on disk (a command for
            one stage does not know the options that another was run with).
        ask_hub: ask the hub whether a data set changed; otherwise nothing goes over the network.
    """
    if stage.kind == "reasoning":
        return _reasoning_state(context, stage, as_configured, ask_hub)
    folder = context.output(stage)
    if not (folder / TRAINING_INFO).is_file():
        if (context.workspace.unpublished(stage.name, context.model) / TRAINING_INFO).is_file():
            return StageState(stage, "partial", folder, reason="trained, not published: see `lorachain ledger`")
        steps = checkpoint_steps(context.workspace.training(stage.name, context.model))
        if stage.kind == "training" and steps:
            return StageState(stage, "partial", folder, reason=f"checkpoint at step {steps[0]}")
        return StageState(stage, "missing", folder)
    info = None
    try:
        info = read_stage_info(folder)
        reason = why_stale(context, stage, folder, info, as_configured=as_configured, ask_hub=ask_hub)
    except LorachainError as error:
        reason = str(error)
    return StageState(stage, "stale" if reason else "fresh", folder, info, reason)


def _reasoning_state(context: ChainContext, step: Stage, as_configured: bool, ask_hub: bool) -> StageState:
    folder = context.output(step)
    if reason := why_not_written(context, step):
        return StageState(step, "off", folder, reason=reason)
    if not is_written(context, step):
        interrupted = is_interrupted(context, step)
        return StageState(step, "partial" if interrupted else "missing", folder)
    reason = why_reasoning_is_stale(context, step, as_configured=as_configured)
    try:
        reason = reason or _changed_written_sources(context, folder, as_configured, ask_hub)
    except LorachainError as error:
        reason = str(error)
    return StageState(step, "stale" if reason else "fresh", folder, reason=reason)


def _changed_written_sources(context: ChainContext, folder: Path, as_configured: bool, ask_hub: bool) -> str:
    report, sources = ReasoningReport.read(folder / REASONING_REPORT), context.sources
    readings: tuple[tuple[Reading, tuple[SourceRecord, ...], list[str]], ...] = (
        ("exam for training", report.sources, sources.exam),
        ("exam for validation", report.exam_sources, sources.exam),
        ("dictionary", report.dictionary_sources, sources.dictionary),
    )
    differences = (_changed(context, *reading, as_configured, ask_hub) for reading in readings)
    return next(filter(None, differences), "")


def why_stale(
    context: ChainContext,
    stage: Stage,
    folder: Path,
    info: StageInfo,
    *,
    as_configured: bool = True,
    ask_hub: bool = False,
) -> str:
    """What differs from when `stage` wrote `folder` (see `stage_state`); empty where nothing does.

    Raises:
        LorachainError: something it was made from cannot be read.
    """
    if adapter_sha256(folder) != info.adapter_sha256:
        return "its adapter was changed after it was written"
    if isinstance(info, TrainingInfo):
        return why_start_differs(context, stage, info, as_configured=as_configured) or _changed_sources(
            context, stage, info, as_configured, ask_hub
        )
    return _changed_inputs(context, stage, info, as_configured)


def _changed_inputs(context: ChainContext, stage: Stage, info: InitInfo | MergeInfo, as_configured: bool) -> str:
    made_from = info.depends_on.as_dict()
    if isinstance(info, InitInfo):
        now = init_inputs(context.entry, context.config.lora, context.config.seed).as_dict()
    else:
        parent = context.output(parent_of(stage))
        now = merge_inputs(stage, parent, context.config.lora, context.config.seed).as_dict()
    if not as_configured:
        now |= {key: made_from[key] for key in ("lora", "seed")}
    return _difference(made_from, now)


def why_start_differs(context: ChainContext, stage: Stage, info: TrainingInfo, *, as_configured: bool = True) -> str:
    """What differs in the parent and the settings from when `stage` was trained; empty where nothing does."""
    return _changed_parent(context, stage, info, as_configured) or (
        _changed_settings(context, stage, info) if as_configured else ""
    )


def _changed_parent(context: ChainContext, stage: Stage, info: TrainingInfo, as_configured: bool) -> str:
    recorded = info.depends_on.parent
    output = recorded.folder.partition("/")[0]
    if as_configured and output != parent_of(stage).output:
        return f"it was trained on {recorded.folder}"
    parent = context.output(stage_of_output(output))
    if not parent.exists():
        return f"its parent {output} is gone"
    if adapter_sha256(parent) != recorded.adapter_sha256:
        return f"{output} changed"
    if read_stage_info(parent).base_sha256 != recorded.base_sha256:
        return "its base changed"
    return ""


def _changed_settings(context: ChainContext, stage: Stage, info: TrainingInfo) -> str:
    made_from = info.depends_on
    before = {
        **made_from.settings.as_dict(),
        "seed": made_from.seed,
        "text normalization": made_from.normalization,
        "prompt version": made_from.prompt_version,
    }
    now = {
        **deciding_settings(context.config, context.entry, stage),
        "seed": context.config.seed,
        "text normalization": NORMALIZATION_VERSION,
        "prompt version": PROMPT_VERSION,
    }
    return _difference(before, now)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting that differs, as `name was old, is new`."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if difference := _difference(old, new, f"{prefix}{key}."):
                return difference
        elif sha256_json(old) != sha256_json(new):
            return f"{prefix}{key} was {old}, is {new}"
    return ""


def _changed_sources(
    context: ChainContext, stage: Stage, info: TrainingInfo, as_configured: bool, ask_hub: bool
) -> str:
    """A source whose content differs from what the stage read; with `as_configured`, of the sources named now."""
    return (
        _changed(
            context,
            READINGS[str(stage.source)],
            info.sources,
            training_sources(context, stage),
            as_configured,
            ask_hub,
        )
        or _changed_samples(context, stage, info, as_configured)
        or _changed(context, "exam for validation", info.exam_sources, context.sources.exam, as_configured, ask_hub)
        or next(
            filter(None, (_changed_replay(context, replayed, as_configured, ask_hub) for replayed in info.replay)), ""
        )
    )


def _changed_samples(context: ChainContext, stage: Stage, info: TrainingInfo, as_configured: bool) -> str:
    """Whether the samples that a preference was trained on are others now."""
    before = info.depends_on.data.samples
    names = training_sources(context, stage) if as_configured else [source.name for source in info.sources]
    return "samples of written reasoning changed" if before is not None and samples_sha256(names) != before else ""


def _changed_replay(context: ChainContext, replayed: ReplayedData, as_configured: bool, ask_hub: bool) -> str:
    """Of an earlier stage's data, those that it was trained on count, not the sources that are configured now."""
    own = {"instruct": context.sources.instruct, "known": context.sources.known}
    named = own.get(replayed.kind, [source.name for source in replayed.sources])
    return _changed(context, READINGS[replayed.kind], replayed.sources, named, as_configured, ask_hub)


def _changed(
    context: ChainContext,
    reading: Reading,
    read: tuple[SourceRecord, ...],
    configured: list[str],
    as_configured: bool,
    ask_hub: bool,
) -> str:
    before = [source.name for source in read]
    names = configured if as_configured else before
    if len(names) != len(before):
        return f"sources were {', '.join(before)}, are {', '.join(names)}"
    for source, name in zip(read, names, strict=True):
        changed = changed_since(source.as_dict(), name, reading, ask_hub=ask_hub, on_message=context.reporter.message)
        if changed:
            return changed
    return ""
