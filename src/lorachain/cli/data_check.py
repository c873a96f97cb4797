"""data check and data hash-exam."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from lorachain.cli import options as o
from lorachain.cli.data_app import data_app

_AS = "plain, dictionary, exam (its train split) or instruct."


@data_app.command("check", epilog="Example: lorachain data check corpus/ --exam my-exam --out report.json")
def check(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Path, hub id or `sample`.")],
    read_as: Annotated[str, typer.Option("--as", help=_AS)] = "plain",
    exam: Annotated[
        list[str] | None, typer.Option("--exam", help="Exam whose dev and few-shot questions are held out; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Report to write (.json).")] = None,
    config: o.ConfigFile = None,
    settings: o.Set = None,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Run the data gates on sources and report what they would leave out, mask or refuse; nothing is changed.

    With --out, an interrupted check resumes.
    """
    from lorachain.data.gates.check import check_sources
    from lorachain.errors import ConfigError
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.data_table import data_tables

    for setting in settings or []:
        if not setting.strip().startswith("data."):
            key = setting.partition("=")[0].strip()
            raise ConfigError(f"{key} has no effect on `lorachain data check`; allowed: the settings of [data]")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a directory; name a file, such as {out / 'report.json'}")
    console = ConsoleReporter()
    started = time.monotonic()
    report = check_sources(
        sources,
        read_as,
        exam or [],
        _data_settings(config, settings or []),
        skip_bad_rows=skip_bad_rows,
        journal=out.with_suffix(".part.jsonl") if out is not None else None,
        on_progress=lambda records, characters: console.message(
            f"{records:,} records, {characters / 1e6:,.0f} M characters, "
            f"{characters / (time.monotonic() - started):,.0f} characters/s"
        ),
    )
    if out is not None:
        report.write(out)
    for table in data_tables(report):
        console.table(table)
    if out is not None:
        console.message(f"wrote {out}")


@data_app.command("hash-exam", epilog="Example: lorachain data hash-exam --exam my-exam --split test --out test.json")
def hash_exam_command(
    exam: Annotated[list[str], typer.Option("--exam", help="Path, hub id or `sample`; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="File to write (.json).")],
    split: Annotated[str, typer.Option("--split", help="test, dev or train.")] = "test",
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Write the questions of a split as salted hashes, so that training data can be checked without their text."""
    from lorachain.data.gates.check import hash_split
    from lorachain.report.console import ConsoleReporter

    hashed = hash_split(exam, split, skip_bad_rows=skip_bad_rows)
    hashed.write(out)
    console = ConsoleReporter()
    console.message(f"{len(hashed.questions):,} {split} questions as salted hashes -> {out}")
    console.message(f"use them with: --set 'data.contamination.hashes=[\"{out}\"]'")


def _data_settings(config: Path | None, settings: Iterable[str]) -> Any:
    from lorachain.chain.context import load_config
    from lorachain.config_reading import parse_setting

    return load_config(config, map(parse_setting, settings)).data
