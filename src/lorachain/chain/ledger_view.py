"""The ledger for showing, and the settings for measuring it later. Imports no torch."""

from dataclasses import dataclass, replace

from pydantic import ValidationError

from lorachain.artifacts import Ledger, read_stage_info
from lorachain.chain.context import ChainContext
from lorachain.chain.ledger_steps import recorded_context, step_name, step_names
from lorachain.chain.stages import chain_stages
from lorachain.config import GateConfig, LedgerConfig
from lorachain.errors import WorkspaceError
from lorachain.workspace import TRAINING_INFO


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A ledger with what the workspace says about its steps."""

    ledger: Ledger
    steps: list[str]
    """All of the chain."""
    there: list[str]
    """Those that have been made."""
    notes: dict[str, str]
    """By step."""


def ledger_view(context: ChainContext) -> LedgerView:
    """The ledger on disk, and which of its rows still belong to the chain.

    Raises:
        WorkspaceError: there is no ledger, or a file is damaged.
    """
    path = context.workspace.ledger(context.model)
    if not path.exists():
        raise WorkspaceError(
            f"{path} is missing: nothing of {context.model} was measured yet; measure it with: "
            f"{context.command('ledger --measure')}"
        )
    ledger = Ledger.read(path)
    there, notes = [], {}
    for stage in chain_stages():
        folder, name = context.output(stage), step_name(stage)
        row = ledger.step(name)
        stopped = row is not None and any(gate.outcome == "failed" and gate.on_fail == "stop" for gate in row.gates)
        if (folder / TRAINING_INFO).is_file():
            there.append(name)
            info = read_stage_info(folder)
            measured = (info.base_sha256, info.adapter_sha256 if stage.kind == "training" else None)
            if row is not None and (row.model.base_sha256, row.model.adapter_sha256) != measured:
                notes[name] = "stopped by a gate" if stopped else "another adapter"
        elif row is not None:
            notes[name] = "stopped by a gate" if stopped else "not published"
    return LedgerView(ledger, step_names(), there, notes)


def measuring_context(context: ChainContext, *, given: bool) -> ChainContext:
    """The context with the settings that the chain and its ledger were made with.

    Args:
        given: whether the command line names settings; those of `[ledger]` and `[gates]` then replace the recorded.
    """
    recorded = recorded_context(context)
    path = context.workspace.ledger(context.model)
    if given or not path.exists():
        return recorded
    ledger = Ledger.read(path)
    try:
        settings = LedgerConfig(**ledger.settings)
        gates = {name: GateConfig(**gate) for name, gate in ledger.gates.items()} or recorded.config.gates
    except ValidationError:  # of another version
        return recorded
    texts = [*settings.text, *(text for text in context.config.ledger.text if text not in settings.text)]
    settings = settings.model_copy(update={"text": texts})
    return replace(recorded, config=recorded.config.model_copy(update={"ledger": settings, "gates": gates}))
