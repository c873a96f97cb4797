"""ledger."""

from typing import TYPE_CHECKING, Annotated

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
