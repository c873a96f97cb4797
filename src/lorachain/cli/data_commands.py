"""make-exam."""

from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app


@app.command("make-exam", epilog="Example: lorachain make-exam --dictionary terms.csv --out my-exam --limit 500")
def make_exam_command(
    dictionary: Annotated[list[str], typer.Option("--dictionary", help="Path, hub id or `sample`; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for SUBJECT/train.jsonl and SUBJECT/dev.jsonl.")],
    subject: Annotated[str, typer.Option("--subject", help="The questions' subject.")] = "dictionary",
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many questions.")] = None,
    dev_fraction: Annotated[float, typer.Option("--dev-fraction", help="Share of the entries in dev.")] = 0.3,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Make five-option questions from a dictionary in KorMedMCQA's schema, for training and as a knowledge probe."""
    from lorachain.data.dictionary import load_dictionary
    from lorachain.data.make_exam import make_exam, refuse_existing_exam, write_exam
    from lorachain.report.console import ConsoleReporter

    refuse_existing_exam(out, subject)
    loaded = load_dictionary(dictionary, skip_bad_rows=skip_bad_rows)
    made = make_exam(loaded.entries, seed=seed, dev_fraction=dev_fraction, limit=limit, subject=subject)
    paths = write_exam(made, out)
    console = ConsoleReporter()
    for split, path in zip(made, paths, strict=True):
        console.message(f"{len(made[split]):,} {split} questions -> {path}")
    console.message(f"use them with: --exam {out}")
