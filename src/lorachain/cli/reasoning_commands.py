"""write-reasoning."""

from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.cli.chain_commands import run_command, stoppable


@app.command("write-reasoning", epilog="Example: lorachain write-reasoning --model medgemma-4b --samples 8")
def write_reasoning(
    model: o.Model,
    writer: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Writer: base, a stage, a directory, or a hub id; default: merge."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory to write instead of the chain's, which stage 02 trains on.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="A question (reasoning.samples).")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Of sampling.")] = None,
    max_questions: Annotated[int | None, typer.Option("--max-questions", help="At most so many; 0: all.")] = None,
    subjects: Annotated[list[str] | None, typer.Option("--subjects", help="Only these; repeatable.")] = None,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    set_: o.Set = None,
    dictionary: o.Dictionary = None,
    exam: o.Exam = None,
    device: o.Device = None,
    seed: o.Seed = None,
    skip_bad_rows: o.SkipBadRows = False,
    yes: o.Yes = False,
    dry_run: o.DryRun = False,
) -> None:
    """Write reasoning for the exam's training questions and keep what can be verified; stage 02 trains on it."""
    named = {"samples": samples, "temperature": temperature, "max_questions": max_questions}
    settings = [f"reasoning.{name}={value}" for name, value in named.items() if value is not None]
    settings = [*(set_ or []), *settings, "reasoning.enabled=true"]
    common = o.Common(
        model, workspace, config, settings, dictionary=dictionary, exam=exam, device=device, seed=seed,
        skip_bad_rows=skip_bad_rows, yes=yes,
    )  # fmt: skip
    if writer is None and out is None and not subjects:
        run_command(common, "write-reasoning", dry_run)
        return

    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.reasoning_stage import write_with, writing_summary
    from lorachain.chain.runtime import start_runtime
    from lorachain.chain.stages import stages_of_command

    context = o.build_context(common, "write-reasoning", stages_of_command("write-reasoning"))
    quiet_libraries()
    runtime = start_runtime(context.config)
    with stoppable(context, "write-reasoning"):
        report = write_with(context, runtime, writer or "merge", out, subjects=subjects)
    context.reporter.message(writing_summary(report))
    if out is not None:
        context.reporter.message(f"use it with: --exam {out / 'exam'}")
