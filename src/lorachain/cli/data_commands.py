"""make-exam."""

from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.errors import ConfigError


@app.command("make-exam", epilog="Example: lorachain make-exam --dictionary terms.csv --out my-exam --limit 500")
def make_exam_command(
    dictionary: Annotated[list[str], typer.Option("--dictionary", help="Path, hub id or `sample`; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for SUBJECT/train.jsonl and SUBJECT/dev.jsonl.")],
    subject: Annotated[str | None, typer.Option("--subject", help="The questions' subject (dictionary).")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many questions.")] = None,
    dev_fraction: Annotated[float, typer.Option("--dev-fraction", help="Share of the entries in dev.")] = 0.3,
    two_hop: Annotated[
        bool, typer.Option("--two-hop", help="Questions that need two facts, with the text that teaches them.")
    ] = False,
    written: Annotated[
        int | None, typer.Option("--written", help="Of --two-hop: so many with a written rationale (32).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Make five-option questions from a dictionary in KorMedMCQA's schema, for training and as a knowledge probe."""
    from lorachain.data.dictionary import load_dictionary
    from lorachain.data.exam_writer import refuse_existing_exam, write_exam
    from lorachain.data.make_exam import make_exam
    from lorachain.data.two_hop import SUBJECT, make_two_hop_exam, write_two_hop_exam
    from lorachain.report.console import ConsoleReporter

    if two_hop and subject is not None:
        raise ConfigError(f"--subject has no effect with --two-hop, whose subject is {SUBJECT}; leave one out")
    if written is not None and not two_hop:
        raise ConfigError("--written has no effect without --two-hop; add it, or leave --written out")
    console = ConsoleReporter()
    if two_hop:
        refuse_existing_exam(out / "exam", SUBJECT, ["train"])
        entries = load_dictionary(dictionary, skip_bad_rows=skip_bad_rows).entries
        exam = make_two_hop_exam(
            entries,
            seed=seed,
            limit=400 if limit is None else limit,
            dev_fraction=dev_fraction,
            written=32 if written is None else written,
        )
        for path in write_two_hop_exam(exam, out):
            console.message(f"wrote {path}")
        console.message(
            f"use them with: --plain-text {out / 'text.jsonl'} --dictionary {out / 'dictionary.jsonl'} "
            f"--exam {out / 'exam'}"
        )
        return
    subject = "dictionary" if subject is None else subject
    refuse_existing_exam(out, subject, ["train", "dev"])
    loaded = load_dictionary(dictionary, skip_bad_rows=skip_bad_rows)
    made = make_exam(loaded.entries, seed=seed, dev_fraction=dev_fraction, limit=limit, subject=subject)
    paths = write_exam(made, out)
    for split, path in zip(made, paths, strict=True):
        console.message(f"{len(made[split]):,} {split} questions -> {path}")
    console.message(f"use them with: --exam {out}")


@app.command(epilog="Example: lorachain known --model medgemma-4b --out known.jsonl")
def known(
    out: Annotated[Path, typer.Option("--out", help="Dictionary to write (.jsonl).")],
    what: Annotated[
        str, typer.Argument(metavar="MODEL", help="base, a stage (init 00 01 merge 02), a directory, or a hub id.")
    ] = "base",
    dictionary: o.Dictionary = None,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    device: o.Device = None,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Write the dictionary entries that a model already knows, to replay a share of them in stage 01."""
    common = o.Common(model, workspace, dictionary=dictionary, device=device, skip_bad_rows=skip_bad_rows)
    context = o.build_context(common, "known")

    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.known_entries import write_known_entries
    from lorachain.chain.runtime import start_runtime

    quiet_libraries()
    result = write_known_entries(context, start_runtime(context.config), what, out)
    context.reporter.message(f"{what} knows {result.known:,} of {result.asked:,} entries, written to {out}")
