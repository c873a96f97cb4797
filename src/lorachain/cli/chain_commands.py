"""init, train, run, status, history."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.errors import ConfigError
from lorachain.workspace import STAGES

if TYPE_CHECKING:
    from lorachain.chain.context import ChainContext
    from lorachain.chain.state import StepState

_HERE = Path(".")


@app.command()
def init(
    model: o.Model,
    workspace: o.WorkspaceDir = _HERE,
    config: o.ConfigFile = None,
    rank: o.Rank = None,
    device: o.Device = None,
    seed: o.Seed = None,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Put an untrained LoRA on the public base: raw_lora_added/."""
    common = o.Common(model, workspace, config, rank=rank, device=device, seed=seed, yes=yes)
    _go(o.build_context(common, []), "init", dry_run)


@app.command()
def train(
    stage: Annotated[str, typer.Argument(help="00 plain text, 01 dictionary (then merge and fresh LoRA), or 02 exam.")],
    model: o.Model,
    epochs: o.Epochs = None,
    workspace: o.WorkspaceDir = _HERE,
    config: o.ConfigFile = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    max_samples: o.MaxSamples = None,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = None,
    max_length: o.MaxLength = None,
    rank: o.Rank = None,
    device: o.Device = None,
    seed: o.Seed = None,
    save_every: o.SaveEvery = None,
    from_base: Annotated[
        bool, typer.Option("--from-base", help="Ablation of 02: straight from raw_lora_added/, without 00 and 01.")
    ] = False,
    skip_bad_rows: o.SkipBadRows = False,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Train one stage of the chain: 00, 01 or 02."""
    if stage not in STAGES:
        raise ConfigError(f"stage {stage!r} is unknown; allowed: {', '.join(STAGES)}")
    if from_base and stage != "02":
        raise ConfigError(f"--from-base is for stage 02; stage {stage} has one place in the chain")
    common = o.Common(
        model, workspace, config, plain_text, dictionary, exam, max_samples, learning_rate, batch_size, max_length,
        rank, device, seed, yes, skip_bad_rows, save_every,
    )  # fmt: skip
    context = o.build_context(common, [stage], None if epochs is None else [epochs])
    _go(context, f"train {stage}", dry_run, from_base=from_base)


@app.command()
def run(
    model: o.Model = "gemma-3-270m",
    epochs: Annotated[str | None, typer.Option("--epochs", help="Of stages 00,01,02: such as 1,3,5.")] = None,
    workspace: o.WorkspaceDir = _HERE,
    config: o.ConfigFile = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    max_samples: o.MaxSamples = None,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = None,
    max_length: o.MaxLength = None,
    rank: o.Rank = None,
    device: o.Device = None,
    seed: o.Seed = None,
    save_every: o.SaveEvery = None,
    skip_bad_rows: o.SkipBadRows = False,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """The whole chain; what is finished is skipped."""
    common = o.Common(
        model, workspace, config, plain_text, dictionary, exam, max_samples, learning_rate, batch_size, max_length,
        rank, device, seed, yes, skip_bad_rows, save_every,
    )  # fmt: skip
    _go(o.build_context(common, ["00", "01", "02"], o.parse_epochs(epochs)), "run", dry_run)


@app.command()
def status(model: o.Model = "gemma-3-270m", workspace: o.WorkspaceDir = _HERE, config: o.ConfigFile = None) -> None:
    """What stands of the chain: stage, state, accuracy, when, next command."""
    from lorachain.chain.state import STEPS, step_state
    from lorachain.report.console import ConsoleReporter

    context = o.build_context(o.Common(model, workspace, config), [])
    _print_status(context, ConsoleReporter(), [step_state(context, step, as_configured=False) for step in STEPS])


@app.command()
def history(
    stage: Annotated[str, typer.Argument(help="init, 00, 01, merge or 02.")] = "02",
    model: o.Model = "gemma-3-270m",
    workspace: o.WorkspaceDir = _HERE,
) -> None:
    """The lineage from the public base to a stage, with every score on the way."""
    from lorachain.chain.state import STEPS
    from lorachain.chain.verify import lineage

    step = next((step for step in STEPS if step == stage), None)
    if step is None:
        raise ConfigError(f"stage {stage!r} is unknown; allowed: {', '.join(STEPS)}")
    for line in lineage(o.build_context(o.Common(model, workspace), []), step):
        print(line)


def _go(context: "ChainContext", command: str, dry_run: bool, *, from_base: bool = False) -> None:
    """Plans or does a command's steps, then prints what they are worth."""
    from lorachain.chain.pipeline import STEPS_OF_COMMAND, plan, run_steps
    from lorachain.report.console import ConsoleReporter
    from lorachain.training.interrupts import Terminated, TrainingInterrupted, terminated_as_exception

    steps = STEPS_OF_COMMAND[command]
    if dry_run:
        resolved = {
            "plan": plan(context, steps, from_base=from_base),
            "configuration": context.config.model_dump(mode="json"),
        }
        print(json.dumps(resolved, ensure_ascii=False, indent=2))
        return
    go_on = f"go on with: {context.command(command)} and the same options"
    try:
        with terminated_as_exception():
            states = run_steps(context, steps, from_base=from_base)
    except TrainingInterrupted as interrupted:
        context.reporter.message(f"{interrupted}; {go_on}")
        sys.exit(interrupted.exit_code)
    except (KeyboardInterrupt, Terminated) as stopped:
        context.reporter.message(f"interrupted; finished stages and checkpoints are kept; {go_on}")
        sys.exit(143 if isinstance(stopped, Terminated) else 130)
    if context.processes.main:
        _print_results(context, ConsoleReporter(), states, command)


def _print_results(context: "ChainContext", screen: Any, states: "list[StepState]", command: str) -> None:
    from lorachain.provenance import TRAINING_INFO, as_written
    from lorachain.report.tables import chain_table, stage_table

    infos: dict[str, Any] = {state.step: state.info for state in states if state.info}
    for state in states:  # those of earlier runs may have been edited: asked one by one, the file can be named
        with as_written(state.folder / TRAINING_INFO):
            info, merged = infos.get(state.step), state.step == "merge"
            if state.step != "init" and info:
                chain_table([] if merged else [info], info if merged else None, "")
    trained = [infos[stage] for stage in ("00", "01", "02") if stage in infos]
    if command == "run":
        screen.table(chain_table(trained, infos.get("merge"), f"{context.model}: what each stage changed"))
    elif command.startswith("train"):
        stage = command.removeprefix("train ")
        screen.table(stage_table(infos[stage], f"{context.model}, stage {stage}"))
    upcoming = _next_command(context, states)
    screen.message(f"next: {upcoming}" if upcoming else "the chain is complete")


def _next_command(context: "ChainContext", states: "list[StepState]") -> str:
    """The command of the first step that is not fresh."""
    maker = {"init": "init", "00": "train 00", "01": "train 01", "merge": "train 01", "02": "train 02"}
    return next((context.command(maker[state.step]) for state in states if state.condition != "fresh"), "")


def _print_status(context: "ChainContext", screen: Any, states: "list[StepState]") -> None:
    from lorachain.chain.pipeline import STEP_TITLES
    from lorachain.provenance import TRAINING_INFO, as_written
    from lorachain.report.tables import accuracy_summary, status_table

    rows = []
    upcoming = _next_command(context, states)
    for state in states:
        info = state.info or {}
        with as_written(state.folder / TRAINING_INFO):
            accuracy = accuracy_summary(info.get("validation", {}).get("after", {}).get(context.entry.answer_style))
        is_next = state is next((s for s in states if s.condition != "fresh"), None)
        rows.append(
            {
                "stage": STEP_TITLES[state.step],
                "state": state.condition + (f": {state.reason}" if state.reason else ""),
                "accuracy": accuracy,
                "when": str(info.get("finished", "–")),
                "next": upcoming if is_next else "",
            }
        )
    screen.table(status_table(f"{context.model} in {context.workspace.root.resolve()}", rows))
