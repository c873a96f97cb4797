"""What a run would read and write, without loading weights (`--dry-run`)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lorachain.chain.context import ChainContext, stage_sources
from lorachain.chain.stages import Stage
from lorachain.chain.state import READINGS, stage_state
from lorachain.config import Sources
from lorachain.data.preview import preview_source
from lorachain.data.staleness import Reading


def plan(context: ChainContext, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """One entry per stage."""
    planned = []
    for stage in stages:
        state = stage_state(context, stage, ask_hub=True)
        trains = stage.kind == "training"
        planned.append(
            {
                "stage": stage.label,
                "state": state.condition,
                "reason": state.reason,
                "reads": [*stage_sources(context.sources, stage), *context.sources.exam] if trains else [],
                "writes": str(context.output(stage)),
            }
        )
    return planned


def check_sources(sources: Sources, stages: Sequence[Stage], *, skip_bad_rows: bool) -> list[dict[str, Any]]:
    """Opens every source that `stages` read and parses its first rows, before any weights are touched.

    Returns:
        One entry per source: how it is read, and an estimate of its records.

    Raises:
        DataError: a source does not exist or cannot be read as what it is meant to be.
    """
    readings: dict[tuple[Reading, str], None] = {}
    for stage in stages:
        if stage.kind == "training":
            readings |= dict.fromkeys((READINGS[str(stage.source)], name) for name in stage_sources(sources, stage))
            readings |= dict.fromkeys(("exam for validation", name) for name in sources.exam)
    return [asdict(preview_source(name, kind, skip_bad_rows=skip_bad_rows)) for kind, name in readings]


def stages_to_run(context: ChainContext, stages: Sequence[Stage]) -> list[Stage]:
    """Those of `stages` that are not fresh: a finished stage reads nothing, so its sources need not be at hand."""
    return [stage for stage in stages if stage_state(context, stage).condition != "fresh"]
