"""ledger and dial."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app

if TYPE_CHECKING:
    from lorachain.chain.context import ChainContext


@app.command("ledger", epilog="Example: lorachain ledger --model medgemma-4b --measure")
def show_ledger(
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    measure: Annotated[bool, typer.Option("--measure", help="First measure what is missing.")] = False,
    ledger_text: o.LedgerText = None,
    device: o.Device = None,
) -> None:
    """Show what every step of the chain scores by every measure, and what each one lost and gained."""
    from lorachain.chain.ledger_view import measuring_context

    o.check_measuring(set_, "ledger")
    common = o.Common(model, workspace, config, set=set_, device=device, ledger_text=ledger_text)
    context = o.build_context(common, "ledger --measure")
    if measure or ledger_text:
        from lorachain.chain.debug_log import quiet_libraries
        from lorachain.chain.ledger import measure_chain
        from lorachain.chain.lock import model_lock
        from lorachain.chain.runtime import start_runtime

        quiet_libraries()
        context = measuring_context(context, given=bool(config or set_))
        with model_lock(context.workspace, context.model, context.command("ledger --measure")):
            measure_chain(context, start_runtime(context.config))
    _print(context)


@app.command("dial", epilog="Example: lorachain dial 02 --model medgemma-4b --apply")
def dial(
    stage: Annotated[str, typer.Argument(help="A trained stage: 00, 01 or 02.")],
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    scales: Annotated[
        str, typer.Option("--scales", help="From 0 (the base) to 1 (as trained), with commas between.")
    ] = "0.9,0.75,0.5,0.25",
    variant: Annotated[
        Literal["uniform", "lines"],
        typer.Option("--variant", help="uniform, or lines: from the scale in the first layer to 1 in the last."),
    ] = "uniform",
    apply: Annotated[bool, typer.Option("--apply", help="Apply the largest scale that passes the gates.")] = False,
    device: o.Device = None,
) -> None:
    """Show what a trained stage scores at smaller scales of its adapter, without training; apply one."""
    from lorachain.chain.dial import check_scales
    from lorachain.chain.ledger_view import measuring_context
    from lorachain.chain.stages import find_training_stage

    o.check_measuring(set_, f"dial {stage}")
    chosen, parsed = find_training_stage(stage), check_scales(_numbers(scales))
    common = o.Common(model, workspace, config, set=set_, device=device)
    context = o.build_context(common, f"dial {stage}")

    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.dial_stage import dial_stage
    from lorachain.chain.lock import model_lock
    from lorachain.chain.runtime import start_runtime
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.ledger_table import dial_table

    quiet_libraries()
    context = measuring_context(context, given=bool(config or set_))
    with model_lock(context.workspace, context.model, context.command(f"dial {stage}")):
        runtime = start_runtime(context.config)
        report, ledger, applied = dial_stage(context, runtime, chosen, parsed, variant=variant, apply=apply)
    console = ConsoleReporter()
    console.table(dial_table(report, ledger))
    if applied is not None:
        console.message(f"stage {stage} is scaled by {applied:g} and published; later stages are stale now")


def _numbers(text: str) -> list[float]:
    """`0.9,0.5` as numbers. Raises ConfigError where one is not."""
    from lorachain.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--scales is {text!r}; give numbers from 0 to 1, such as 0.9,0.5") from error


def _print(context: "ChainContext") -> None:
    from lorachain.chain.ledger_view import ledger_view
    from lorachain.report import ledger_table as tables
    from lorachain.report.console import ConsoleReporter

    view = ledger_view(context)
    console = ConsoleReporter()
    console.table(tables.ledger_table(view.ledger, view.steps, view.notes))
    if tables.has_changes(view.ledger):
        console.table(tables.change_table(view.ledger))
    if any(step.gates for step in view.ledger.steps):
        console.table(tables.gate_table(view.ledger))
    if missing := tables.missing_steps(view.ledger, view.there):
        console.message(f"not measured: {', '.join(missing)}; measure with: {context.command('ledger --measure')}")
