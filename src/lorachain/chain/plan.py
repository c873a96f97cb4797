"""What a run would read and write, without loading weights (`--dry-run`)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from lorachain.chain.context import ChainContext, stage_sources, training_sources
from lorachain.chain.reasoning_state import require_samples
from lorachain.chain.stages import Stage
from lorachain.chain.state import READINGS, stage_state
from lorachain.data.preview import preview_sources
from lorachain.data.staleness import Reading


def plan(context: ChainContext, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """One entry per stage."""
    planned = []
    for stage in stages:
        state = stage_state(context, stage, ask_hub=True)
        replayed = [name for names in replayed_sources(context, [stage]).values() for name in names]
        reads: list[str] = []
        if stage.kind == "training":
            reads = [*training_sources(context, stage), *context.sources.exam, *replayed]
        elif stage.kind == "reasoning":
            reads = [*context.sources.exam, *context.sources.dictionary]
        planned.append(
            {
                "stage": stage.label,
                "state": state.condition,
                "reason": state.reason,
                "reads": reads,
                "writes": str(context.output(stage)),
            }
        )
    return planned


def replayed_sources(context: ChainContext, stages: Sequence[Stage]) -> dict[str, list[str]]:
    """By kind, the sources that only replay reads: those of the data that no stage trains."""
    settings = [context.config.stages[stage.name].replay for stage in stages if stage.kind == "training"]
    kinds = {kind for replay in settings if replay is not None for kind in replay.shares}
    own = {"instruct": context.sources.instruct, "known": context.sources.known}
    return {kind: names for kind, names in own.items() if kind in kinds}


def check_sources(context: ChainContext, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Opens every source that `stages` read and parses its first rows, before any weights are touched.

    Returns:
        One entry per source: how it is read, and an estimate of its records.

    Raises:
        DataError: a source does not exist or cannot be read as what it is meant to be, or a preference has no samples.
    """
    require_samples(context, stages)
    sources = context.sources
    readings: dict[Reading, dict[str, None]] = {}

    def read(names: Iterable[str], reading: Reading) -> None:
        readings.setdefault(reading, {}).update(dict.fromkeys(names))

    for stage in stages:
        if stage.kind == "training":
            read(stage_sources(sources, stage), READINGS[str(stage.source)])
        if stage.kind == "reasoning":
            read(sources.exam, "exam for training")
            read(sources.dictionary, "dictionary")
        if stage.kind in ("training", "reasoning"):
            read(sources.exam, "exam for validation")
    for kind, names in replayed_sources(context, stages).items():
        read(names, READINGS[kind])
    return [
        asdict(preview)
        for reading, names in readings.items()
        for preview in preview_sources(list(names), reading, skip_bad_rows=context.skip_bad_rows)
    ]


def stages_to_run(context: ChainContext, stages: Sequence[Stage]) -> list[Stage]:
    """Those of `stages` that are not fresh: a finished stage reads nothing, so its sources need not be at hand."""
    return [stage for stage in stages if not stage_state(context, stage).done]
