"""report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app


@app.command("report", epilog="Example: lorachain report --model medgemma-4b --lang ko")
def report(
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write (report.html, or report.md).")] = None,
    form: Annotated[Literal["html", "md"] | None, typer.Option("--format", help="html, or md for Markdown.")] = None,
    language: Annotated[
        Literal["en", "ko"], typer.Option("--lang", help="Of Markdown; HTML has both, and begins with this one.")
    ] = "en",
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Results of `lorachain eval` to show; the last is compared with the first."),
    ] = None,
) -> None:
    """Write a report of the chain: one HTML file that needs no network, or Markdown."""
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.document.build import build_document
    from lorachain.report.document.collect import collect
    from lorachain.report.document.write import check_report_file, write_report

    chosen: Literal["html", "md"] = form or ("md" if out is not None and out.suffix in (".md", ".markdown") else "html")
    target = out or Path(f"report.{chosen}")
    check_report_file(target)
    context = o.build_context(o.Common(model, workspace, config), "report")
    write_report(build_document(collect(context, results or [])), target, chosen, language)
    ConsoleReporter().message(f"the report of {context.model} is {target}")
