"""Runs stages in the order of the table, skipping those that are fresh."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from lorachain.atomic import check_replaceable, is_ours, make_room, unwritable_as_error
from lorachain.chain.context import ChainContext, writes_reasoning
from lorachain.chain.debug_log import debug_log
from lorachain.chain.init_stage import initialize
from lorachain.chain.lock import ModelLock, model_lock
from lorachain.chain.merge_stage import merge_and_add_lora
from lorachain.chain.reasoning_stage import write_chain_reasoning
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import Stage, chain_steps, stages_after
from lorachain.chain.state import StageState, stage_state
from lorachain.chain.trackers import require_trackers
from lorachain.chain.train_stage import train_stage
from lorachain.errors import WorkspaceError
from lorachain.memory import release


def run_stages(context: ChainContext, runtime: Runtime, stages: Sequence[Stage]) -> list[StageState]:
    """Runs those of `stages` that are not fresh, in order, holding the model's lock.

    Finished work that became stale is replaced only after `context.confirm` agreed.

    Returns:
        The states afterwards of all stages of the chain.

    Raises:
        LorachainError: anything the user can fix; what was finished is kept.
        TrainingInterrupted: on a signal, after saving.
    """
    require_trackers(context.config)
    workspace, processes = context.workspace, runtime.processes
    command = "run" if len(stages) == len(chain_steps()) else stages[0].command
    locked = model_lock(workspace, context.model, context.command(command)) if processes.main else nullcontext()
    with unwritable_as_error(workspace.model_root), locked as lock:
        if lock is not None and lock.taken_over_from:
            context.reporter.message(f"took over the lock of a run that ended unexpectedly ({lock.taken_over_from})")
        for stage in stages:
            if processes.broadcast(partial(_must_run, context, stage)):
                _run(context, runtime, stage, lock)
    requested = {stage.name: stage for stage in stages}
    return [
        stage_state(context, requested.get(stage.name, stage), as_configured=stage.name in requested)
        for stage in chain_steps()
    ]


def _must_run(context: ChainContext, stage: Stage) -> bool:
    """Whether the stage has to run; asks before finished work is replaced."""
    state = stage_state(context, stage, ask_hub=True)
    if state.condition == "fresh":
        context.reporter.message(f"{stage.label} is finished ({state.folder}), skipped")
        return False
    if state.condition == "off":
        return False
    if state.condition == "stale":
        _confirm_replacement(context, state)
    elif not is_ours(state.folder) and (moved := make_room(state.folder, context.ask)):
        context.reporter.message(f"{state.folder} is now {moved}")
    check_replaceable(state.folder)  # now, not after hours of training
    return True


def _confirm_replacement(context: ChainContext, state: StageState) -> None:
    behind = [stage for stage in stages_after(state.stage) if stage.kind != "reasoning" or writes_reasoning(context)]
    following = ", ".join(stage.label for stage in behind)
    consequence = f"{state.stage.label} will be run again" + (f", then {following}" if following else "")
    context.reporter.message(f"{state.stage.label}: {state.reason}; {consequence}")
    if not context.confirm(f"Replace {state.folder}?"):
        raise WorkspaceError(
            f"{state.folder} is finished but stale ({state.reason}); nothing was changed. "
            "Run again with --yes to replace it, or restore what changed"
        )


def _run(context: ChainContext, runtime: Runtime, stage: Stage, lock: ModelLock | None) -> None:
    """All processes train and write reasoning; everything else is done by the main process."""
    main = runtime.processes.main
    if lock is not None:
        lock.working_on(stage.name)
    log = debug_log(context.workspace.debug_log(stage.log)) if main and stage.kind != "init" else nullcontext()
    with log:
        if stage.kind == "training":
            train_stage(context, runtime, stage)
        elif stage.kind == "reasoning":
            write_chain_reasoning(context, runtime, stage)
        elif main:
            if stage.kind == "init":
                initialize(context, stage)
            else:
                merge_and_add_lora(context, runtime, stage)
    release()
    runtime.processes.wait()
