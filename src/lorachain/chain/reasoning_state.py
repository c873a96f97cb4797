"""The state of the step that writes reasoning, from its report."""

import os
from collections.abc import Sequence
from pathlib import Path

from lorachain.artifacts import read_stage_info
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.chain.context import ChainContext, stage_config, training_sources, writes_reasoning, writing_settings
from lorachain.chain.stages import Stage, parent_of, reasoning_for
from lorachain.errors import DataError, LorachainError
from lorachain.prompts import PROMPT_VERSION
from lorachain.provenance import adapter_sha256, sha256_json
from lorachain.reasoning.samples_file import no_samples, written_folders
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO


def journal_path(out: Path) -> Path:
    """Where the samples of a writing run are kept: beside its output, so that more samples can be added later."""
    return out.with_name(f"{out.name}.journal.jsonl")


def is_written(context: ChainContext, step: Stage) -> bool:
    return (context.output(step) / REASONING_REPORT).is_file()


def is_interrupted(context: ChainContext, step: Stage) -> bool:
    """Whether a writing run was begun and its report is missing."""
    return not is_written(context, step) and os.path.lexists(journal_path(context.output(step)))


def why_not_written(context: ChainContext, step: Stage) -> str:
    """Why the step does not run at all; empty where it does."""
    if is_written(context, step) or writes_reasoning(context):
        return ""
    return f"reasoning.enabled is {str(context.config.reasoning.enabled).lower()}"


def samples_sha256(sources: Sequence[str]) -> str:
    """Of all samples of the written reasoning among the sources of an exam, as its reports record them."""
    reports = [ReasoningReport.read(folder / REASONING_REPORT) for folder in written_folders(sources)]
    return sha256_json([report.samples_sha256 for report in reports])


def samples_identity(context: ChainContext, stage: Stage) -> str | None:
    """What a stage's wrong answers depend on; None where it trains no preference."""
    if stage_config(context.config, stage).preference is None:
        return None
    return samples_sha256(training_sources(context, stage))


def require_samples(context: ChainContext, stages: Sequence[Stage]) -> None:
    """Refuses a preference without written reasoning, before anything is trained.

    Raises:
        DataError: it is not among the sources, and no step of `stages` writes it.
    """
    for stage in stages:
        preference = context.config.stages[stage.name].preference if stage.kind == "training" else None
        step = reasoning_for(stage)
        if preference is None or (step is not None and step in stages and writes_reasoning(context)):
            continue
        sources = training_sources(context, stage)
        if not written_folders(sources):
            raise DataError(no_samples(f"stages.{stage.name}.preference", sources, context.command("write-reasoning")))


def scorer_sha256(base_sha256: str | None, adapter_sha256: str | None) -> str:
    """The identity of an adapter on its base, as a reasoning report records it."""
    return sha256_json([base_sha256, adapter_sha256])


def _scorer_of(folder: Path) -> str:
    return scorer_sha256(read_stage_info(folder).base_sha256, adapter_sha256(folder))


def why_reasoning_is_stale(context: ChainContext, step: Stage, *, as_configured: bool) -> str:
    """What differs from when the reasoning was written; empty where nothing does. The sources are compared by the
    caller.

    Reasoning that the user had another model write is not stale because the parent changed.
    """
    try:
        report = ReasoningReport.read(context.output(step) / REASONING_REPORT)
        parent = context.output(parent_of(step))
        if report.by_parent and (parent / TRAINING_INFO).is_file():
            if report.depends_on.scorer_sha256 != _scorer_of(parent):
                return f"{parent_of(step).output} changed"
            if as_configured:
                return _changed_settings(context, report)
    except LorachainError as error:
        return str(error)
    return ""


def _changed_settings(context: ChainContext, report: ReasoningReport) -> str:
    before, config = report.depends_on, context.config
    if before.prompt_version != PROMPT_VERSION:
        return f"prompt version was {before.prompt_version}, is {PROMPT_VERSION}"
    now = {**writing_settings(config), "seed": config.seed, "answer_style": context.entry.answer_style}
    then = {**before.settings, "seed": before.seed, "answer_style": before.answer_style}
    changed = next((key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)), None)
    if changed is not None:
        return f"reasoning.{changed} was {then.get(changed)}, is {now.get(changed)}"
    if config.reasoning.samples > report.samples_per_question:
        return f"reasoning.samples was {report.samples_per_question}, is {config.reasoning.samples}"
    return ""
