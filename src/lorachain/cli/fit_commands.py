"""fit."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.redaction import printable


@app.command("fit", epilog="Example: lorachain fit medgemma-27b --gpu 24GB --out card.toml")
def fit_model(
    what: Annotated[
        str, typer.Argument(metavar="MODEL", help="A short name of model_paths.json, a directory, or a hub id.")
    ],
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="SIZE", help="Memory of the card, such as 24GB; else the device's."),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", metavar="STAGE", help="Also train two steps of a stage: 00, 01 or 02; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the recommended configuration to a file.")] = None,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    device: o.Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Calculate memory and disk of a chain from a model's config.json; exit code 2 if it does not fit the card."""
    from lorachain.errors import ConfigError
    from lorachain.registry import read_entries
    from lorachain.workspace import open_workspace

    known = what in read_entries(open_workspace(workspace))
    model = what if known else o.DEFAULT_MODEL
    context = o.build_context(o.Common(model, workspace, config, set_, device=device), "fit")

    from lorachain.atomic import atomic_write_text
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.fit.card import parse_size
    from lorachain.fit.report import fit
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.fit_table import disk_line, disk_table, measured_table, memory_table, rejected_lines

    quiet_libraries()
    capacity = parse_size(gpu) if gpu is not None else None
    if out is not None and out.exists():
        raise ConfigError(f"--out {out} exists already; remove it, or name another file")
    report = fit(context, None if known else what, capacity=capacity, measure=measure or ())
    if out is not None and report.configuration is None:
        reason = "nothing fits" if report.capacity is not None else "give the card's memory with --gpu"
        raise ConfigError(f"there is no configuration to write to {out}: {reason}")
    if out is not None and report.configuration is not None:
        atomic_write_text(out, report.configuration)
    console = ConsoleReporter()
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        console.table(memory_table(report))
        console.table(disk_table(report))
        if (line := disk_line(report)) is not None:
            print(line)
        if report.measured:
            console.table(measured_table(report))
        for line in rejected_lines(report):
            print(printable(line))
        if report.configuration is not None:
            print(f"recommended for this card:\n\n{report.configuration}", end="")
        elif report.capacity is not None:
            print("no settings fit this card; use a larger one, or a smaller model")
    if report.capacity is not None and report.recommended is None:
        sys.exit(2)
