"""The order of the stages, and which of them a run has to do."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from lorachain.chain.context import ChainContext
from lorachain.chain.debug_log import debug_log
from lorachain.chain.init_step import initialize
from lorachain.chain.merge_step import merge_and_add_lora
from lorachain.chain.stage import StageRun
from lorachain.chain.state import STEPS, StepName, StepState, output_folder, step_state
from lorachain.errors import WorkspaceError
from lorachain.memory import release
from lorachain.workspace import StageName, disk_full_as_error, model_lock

STEP_TITLES: dict[StepName, str] = {
    "init": "base + LoRA",
    "00": "00 plain text",
    "01": "01 dictionary",
    "merge": "01 merged + new LoRA",
    "02": "02 exam",
}
STEPS_OF_COMMAND: dict[str, tuple[StepName, ...]] = {
    "init": ("init",),
    "train 00": ("00",),
    "train 01": ("01", "merge"),
    "train 02": ("02",),
    "run": STEPS,
}


def run_steps(context: ChainContext, steps: Sequence[StepName], *, from_base: bool = False) -> list[StepState]:
    """Does those of `steps` that are not fresh, in their order, holding the model's lock.

    Finished work that became stale is replaced only after `context.confirm` said so.

    Args:
        from_base: the stage starts from raw_lora_added instead of its place in the chain (for ablations).

    Returns:
        The states afterwards, of all steps of the chain.

    Raises:
        LorachainError: anything the user can mend; what was finished stays.
        TrainingInterrupted: on a signal, after saving.
    """
    workspace = context.workspace
    processes = context.processes
    lock = model_lock(workspace, context.model) if processes.main else nullcontext()
    with disk_full_as_error(workspace.model_root), lock as taken_over:
        if taken_over:
            context.reporter.message(taken_over)
        for step in steps:
            if processes.broadcast(partial(_to_be_done, context, step, from_base)):
                _do(context, step, from_base)
    return [step_state(context, step, as_configured=step in steps, from_base=from_base) for step in STEPS]


def _to_be_done(context: ChainContext, step: StepName, from_base: bool) -> bool:
    """Whether the step is to be done; asks where finished work would be replaced."""
    state = step_state(context, step, from_base=from_base, ask_hub=True)
    if state.condition == "fresh":
        context.reporter.message(f"{STEP_TITLES[step]} is finished ({state.folder}), skipped")
        return False
    if state.condition == "stale":
        _ask_to_replace(context, state)
    return True


def _ask_to_replace(context: ChainContext, state: StepState) -> None:
    following = ", ".join(STEP_TITLES[step] for step in STEPS[STEPS.index(state.step) + 1 :])
    consequence = f"{STEP_TITLES[state.step]} will be redone" + (f", then {following}" if following else "")
    context.reporter.message(f"{STEP_TITLES[state.step]}: {state.reason}; {consequence}")
    if not context.confirm(f"Replace {state.folder}?"):
        raise WorkspaceError(
            f"{state.folder} is finished but stale ({state.reason}); nothing was changed. "
            "Run again with --yes to redo it, or restore what changed"
        )


def _do(context: ChainContext, step: StepName, from_base: bool) -> None:
    """All processes train; what else there is to do, the main one does."""
    main = context.processes.main
    if step == "init":
        if main:
            initialize(context)
    else:
        stage: StageName = "01" if step == "merge" else step
        with debug_log(context.workspace.debug_log(stage)) if main else nullcontext():
            if step != "merge":
                StageRun(context, stage, from_base=from_base).run()
            elif main:
                merge_and_add_lora(context)
    release()
    context.processes.wait()


def plan(context: ChainContext, steps: Sequence[StepName], *, from_base: bool = False) -> list[dict[str, Any]]:
    """What a run would read and write, without loading weights (`--dry-run`)."""
    planned = []
    for step in steps:
        state = step_state(context, step, from_base=from_base, ask_hub=True)
        stage = step if step in ("00", "01", "02") else None
        planned.append(
            {
                "step": STEP_TITLES[step],
                "state": state.condition,
                "reason": state.reason,
                "reads": [*(context.stage_sources(stage) if stage else []), *(context.sources.exam if stage else [])],
                "writes": str(output_folder(context, step)),
            }
        )
    return planned
