"""The state of a chain for `lorachain status`. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorachain.artifacts import TrainingInfo
from lorachain.artifacts.validation import ProtocolScore
from lorachain.chain.context import ChainContext
from lorachain.chain.lock import lock_holder
from lorachain.chain.stages import Stage, chain_steps
from lorachain.chain.state import Condition, StageState, stage_state


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of the status table."""

    stage: Stage
    condition: Condition
    note: str
    score: ProtocolScore | None
    finished: str
    next_command: str


def chain_status(context: ChainContext) -> Iterator[StageStatus]:
    """One entry per stage, in order; a stage that another process is running says so, with its command."""
    states = [stage_state(context, stage, as_configured=False) for stage in chain_steps()]
    holder = lock_holder(context.workspace, context.model)
    pending = next((state.stage.name for state in states if not state.done), None)
    for state in states:
        info = state.info if isinstance(state.info, TrainingInfo) else None
        condition, note = state.condition, state.reason
        upcoming = next_command(context, states) if state.stage.name == pending else ""
        if holder is not None and holder.stage == state.stage.name:
            progress = f", {note}" if state.condition == "partial" else ""
            condition, note = "running", f"process {holder.pid} on {holder.host} since {holder.start}{progress}"
        if holder is not None and upcoming:
            upcoming = f"(running) {holder.command}"
        yield StageStatus(
            stage=state.stage,
            condition=condition,
            note=note,
            score=info.validation.after.get(context.entry.answer_style) if info else None,
            finished=info.finished if info else "–",
            next_command=upcoming,
        )


def next_command(context: ChainContext, states: Sequence[StageState]) -> str:
    """The command of the first stage that is not fresh; empty where all are."""
    pending = next((state for state in states if not state.done), None)
    return context.command(pending.stage.command) if pending else ""
