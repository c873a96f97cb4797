"""init, train, run, status, history."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.redaction import printable

if TYPE_CHECKING:
    from lorachain.chain.context import ChainContext
    from lorachain.chain.stages import Stage
    from lorachain.chain.state import StageState


_DATA_DOCS = "docs/configuration.md#sources"


@app.command(epilog="Example: lorachain init --model medgemma-4b --rank 32")
def init(
    model: o.Model,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    rank: o.Rank = None,
    seed: o.Seed = None,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Put an untrained LoRA on the public base: raw_lora_added/."""
    common = o.Common(model, workspace, config, set=set_, rank=rank, seed=seed, yes=yes)
    run_command(common, "init", dry_run)


@app.command(epilog="Example: lorachain train 01 --model medgemma-4b --epochs 3 --dictionary terms.csv")
def train(
    stage: Annotated[str, typer.Argument(help="00 plain text, 01 dictionary (then merge and new LoRA), or 02 exam.")],
    model: o.Model,
    epochs: o.Epochs = None,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    encoding: o.Encoding = None,
    sheet: o.Sheet = None,
    columns: o.Columns = None,
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
    ledger_text: o.LedgerText = None,
    accept_harm: o.AcceptHarm = False,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Train one stage of the chain: 00, 01 or 02."""
    from lorachain.chain.stages import find_training_stage

    common = o.Common(
        model, workspace, config, set_, plain_text, dictionary, exam, epochs, max_samples, learning_rate, batch_size,
        max_length, rank, device, seed, save_every, skip_bad_rows, yes, from_base, ledger_text, accept_harm, encoding,
        sheet, columns,
    )  # fmt: skip
    run_command(common, find_training_stage(stage).command, dry_run)


@app.command(epilog="Example: lorachain run --model medgemma-4b --epochs 1,3,5 --set lora.rank=32")
def run(
    model: o.Model = o.DEFAULT_MODEL,
    epochs: Annotated[str | None, typer.Option("--epochs", help="Of stages 00,01,02: such as 1,3,5.")] = None,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    encoding: o.Encoding = None,
    sheet: o.Sheet = None,
    columns: o.Columns = None,
    max_samples: o.MaxSamples = None,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = None,
    max_length: o.MaxLength = None,
    rank: o.Rank = None,
    device: o.Device = None,
    seed: o.Seed = None,
    save_every: o.SaveEvery = None,
    skip_bad_rows: o.SkipBadRows = False,
    ledger_text: o.LedgerText = None,
    accept_harm: o.AcceptHarm = False,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Run the whole chain; finished stages are skipped."""
    common = o.Common(
        model, workspace, config, set_, plain_text, dictionary, exam, epochs, max_samples, learning_rate, batch_size,
        max_length, rank, device, seed, save_every, skip_bad_rows, yes, False, ledger_text, accept_harm, encoding,
        sheet, columns,
    )  # fmt: skip
    run_command(common, "run", dry_run)


@app.command(epilog="Example: lorachain status --model medgemma-4b")
def status(model: o.Model = o.DEFAULT_MODEL, workspace: o.WorkspaceDir = o.HERE, config: o.ConfigFile = None) -> None:
    """Show the state of each stage: accuracy, when it finished, next command."""
    from lorachain.chain.status import chain_status
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import accuracy_text, status_table

    context = o.build_context(o.Common(model, workspace, config), "status")
    rows = [
        {
            "stage": row.stage.label,
            "state": row.condition + (f": {row.note}" if row.note else ""),
            "accuracy": accuracy_text(row.score),
            "finished": row.finished,
            "next": row.next_command,
        }
        for row in chain_status(context)
    ]
    ConsoleReporter().table(status_table(f"{context.model} in {context.workspace.root.resolve()}", rows))


@app.command(epilog="Example: lorachain history 02 --model medgemma-4b")
def history(
    stage: Annotated[str | None, typer.Argument(help="init, 00, 01, merge or 02 (default: the last).")] = None,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
) -> None:
    """List the lineage from the public base to a stage, with every score on the way."""
    from lorachain.chain.lineage import lineage
    from lorachain.chain.stages import chain_stages, find_stage

    last = find_stage(stage) if stage else chain_stages()[-1]
    for line in lineage(o.build_context(o.Common(model, workspace), "history"), last):
        print(printable(line))


def run_command(common: o.Common, command: str, dry_run: bool) -> None:
    """Plans or runs a command's stages, then prints what they changed."""
    from lorachain.chain import stages as table
    from lorachain.chain.context import without_earlier_data
    from lorachain.chain.plan import check_sources, plan, stages_to_run

    stages = list(table.stages_of_command(command))
    if common.from_base:
        stages = [table.from_base(stage) for stage in stages]
    context = o.build_context(common, command, stages)
    if common.from_base:
        context = without_earlier_data(context, stages)
    pending = stages_to_run(context, stages)
    sources = check_sources(context, pending)
    if dry_run:
        from lorachain.chain.data_summary import planned_summaries

        summaries = planned_summaries(context, [(source["name"], source["reading"]) for source in sources])
        planned = {
            "plan": plan(context, stages),
            "sources": sources,
            "summaries": [summary.as_dict() for summary in summaries],
            "configuration": context.config.model_dump(mode="json"),
        }
        print(json.dumps(planned, ensure_ascii=False, indent=2))
        return
    if command == "run" and pending and context.config.note:
        context.reporter.message(context.config.note)
    states = _run_stages(context, command, stages)
    if states is not None:
        _print_results(context, states, command)


def _run_stages(context: "ChainContext", command: str, stages: "list[Stage]") -> "list[StageState] | None":
    """Runs the stages; None in the processes of a launcher that do not report."""
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.pipeline import run_stages
    from lorachain.chain.plan import stages_to_run
    from lorachain.chain.runtime import start_runtime
    from lorachain.fit.warnings import run_warnings

    quiet_libraries()
    runtime = start_runtime(context.config, shared=True)
    if runtime.processes.main:
        for text in run_warnings(context, stages_to_run(context, stages)):
            context.reporter.message(f"warning: {text}")
    with stoppable(context, command):
        states = run_stages(context, runtime, stages)
    return states if runtime.processes.main else None


@contextmanager
def stoppable(context: "ChainContext", command: str) -> Iterator[None]:
    """On a signal, says what is kept and how to resume, and exits 130 or 143."""
    from lorachain.training.interrupts import Terminated, TrainingInterrupted, terminated_as_exception

    resume = f"resume with: {context.command(command)}"
    try:
        with terminated_as_exception():
            yield
    except TrainingInterrupted as interrupted:
        context.reporter.message(f"{interrupted}; {resume}")
        sys.exit(interrupted.exit_code)
    except (KeyboardInterrupt, Terminated) as stopped:
        context.reporter.message(f"interrupted; finished stages and checkpoints are kept; {resume}")
        sys.exit(143 if isinstance(stopped, Terminated) else 130)


def _print_results(context: "ChainContext", states: "list[StageState]", command: str) -> None:
    from lorachain.artifacts import MergeInfo, TrainingInfo
    from lorachain.chain.headline import chain_headline
    from lorachain.chain.status import next_command
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.headline import headline_lines, next_lines
    from lorachain.report.tables import chain_table, stage_table

    console = ConsoleReporter()
    infos = [state.info for state in states]
    trained = [info for info in infos if isinstance(info, TrainingInfo)]
    if command == "run":
        merge = next((info for info in infos if isinstance(info, MergeInfo)), None)
        console.table(chain_table(trained, merge, f"{context.model}: what each stage changed"))
    for state in states:
        if state.stage.command == command and isinstance(state.info, TrainingInfo):
            console.table(stage_table(state.info, f"{context.model}, stage {state.stage.name}"))
    if upcoming := next_command(context, states):
        console.message(f"next: {upcoming}")
        return
    headline = chain_headline(context, states[-1])
    if headline is not None:
        console.lines(["", *headline_lines(headline)])
    console.message("the chain is complete; next:")
    for line in next_lines(_next_steps(context)):
        console.message(line)


def _next_steps(context: "ChainContext") -> list[tuple[str, str]]:
    """What to do with a finished chain: a command, and what it is for."""
    plain = replace(context, options_for=lambda command: ())  # neither shows nor asks by the options of a run
    return [
        (plain.command("report"), "everything that was measured, as one HTML file"),
        (plain.command('ask "질문"'), "ask the model"),
        ("lorachain run --dictionary FILE --exam FILE --workspace DIR", f"your own data: {_DATA_DOCS}"),
    ]
