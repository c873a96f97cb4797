"""doctor."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app

if TYPE_CHECKING:
    from lorachain.artifacts import Check, ShownExample

_CHECKED = "A short name of model_paths.json, a stage (init 00 01 02) of --model, a directory, or a hub id."


@app.command("doctor", epilog="Example: lorachain doctor medgemma-4b --dictionary terms.csv")
def doctor(
    what: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=_CHECKED)] = None,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    plain_text: o.PlainText = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    device: o.Device = None,
    serving: Annotated[
        str | None, typer.Option("--serving", metavar="URL", help="Compare a running server with the directory.")
    ] = None,
    server_model: Annotated[
        str | None, typer.Option("--server-model", help="The server's name for the model, if it lists several.")
    ] = None,
    timeout: o.Timeout = 120,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check machine, hub, model, adapter and data before money is spent; exit code 2 if a check fails."""
    from lorachain.registry import read_entries
    from lorachain.workspace import open_workspace

    if what is not None and what in read_entries(open_workspace(workspace)):
        model, what = what, None
    named = {"plain_text": plain_text, "dictionary": dictionary, "exam": exam}
    kinds = [kind for kind, given in named.items() if given] or None
    common = o.Common(
        model, workspace, config, set_, plain_text=plain_text, dictionary=dictionary, exam=exam, device=device
    )
    context = o.build_context(common, "doctor")

    from lorachain.artifacts import Check
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.doctor.examine import Server, examine
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.doctor_text import check_text, example_text, summary_text

    quiet_libraries()
    out = ConsoleReporter().out

    def show(finding: "Check | ShownExample") -> None:
        if not as_json:
            out.print(check_text(finding) if isinstance(finding, Check) else example_text(finding), soft_wrap=True)

    server = Server(serving, server_model, timeout) if serving is not None else None
    report = examine(context, what, kinds=kinds, server=server, on_finding=show)
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        out.print(summary_text(report.checks))
    if report.failed:
        sys.exit(2)
