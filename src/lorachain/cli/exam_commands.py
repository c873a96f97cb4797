"""eval and compare."""

from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app

_SCORED = "base, a stage (init 00 01 merge 02), a directory, or a hub id; with --engine openai the server's model name."


@app.command("eval", epilog="Example: lorachain eval 02 --out 02.json --protocol letters --rotations 5")
def evaluate(
    what: Annotated[str, typer.Argument(metavar="MODEL", help=_SCORED)],
    out: Annotated[Path, typer.Option("--out", help="Result to write (.json); rows beside it as .parquet.")],
    protocol: Annotated[
        str, typer.Option("--protocol", help="letters, options, cloze, lm-eval-3.0, kormedeval, reasoning.")
    ] = "letters",
    exam: o.Exam = None,
    split: Annotated[str, typer.Option("--split", help="dev, train, or test, which is only read when named.")] = "dev",
    subjects: Annotated[list[str] | None, typer.Option("--subjects", help="Only these; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many, spread over the subjects.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", help="Worked examples before each question.")] = None,
    rotations: Annotated[int | None, typer.Option("--rotations", help="5: average over the cyclic orders.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Of `reasoning`: majority of so many.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens")] = None,
    token_budget: Annotated[int, typer.Option("--token-budget", min=1, help="Padded tokens per forward pass.")] = 8192,
    engine: Annotated[
        str, typer.Option("--engine", help="What generates in `reasoning`: local, openai (a server; --base-url), vllm.")
    ] = "local",
    base_url: o.BaseUrl = None,
    completions: o.Completions = False,
    concurrency: o.Concurrency = 8,
    timeout: o.Timeout = 600,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    device: o.Device = None,
    seed: o.Seed = None,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Score a model on KorMedMCQA; an interrupted evaluation resumes."""
    from lorachain.evaluation.results import check_output

    check_output(out)
    common = o.Common(model, workspace, exam=exam, device=device, seed=seed, skip_bad_rows=skip_bad_rows)
    context = o.build_context(common, "eval")

    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.evaluate import evaluate_model
    from lorachain.chain.runtime import start_runtime
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import result_table

    quiet_libraries()
    runtime = start_runtime(context.config, shared=True)
    result = evaluate_model(
        context,
        runtime,
        what,
        out,
        protocol=protocol,
        split=split,
        subjects=subjects,
        limit=limit,
        engine=o.engine_options(
            engine,
            base_url=base_url,
            completions=completions,
            concurrency=concurrency,
            timeout=timeout,
            token_budget=token_budget,
        ),
        shots=shots,
        rotations=rotations,
        samples=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        token_budget=token_budget,
    )
    if runtime.processes.main:
        ConsoleReporter().table(result_table(result, f"{result.model.name} -> {out}"))


@app.command(epilog="Example: lorachain compare base.json 02.json")
def compare(
    a: Annotated[Path, typer.Argument(help="Result of the one model; also samples_*.jsonl of lm-eval.")],
    b: Annotated[Path, typer.Argument(help="Result of the other.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    flips: Annotated[bool, typer.Option("--flips/--no-flips", help="List every question that changed.")] = True,
) -> None:
    """Compare two results question by question with an exact test; both must have the same questions and protocol.

    A result is a .json of `eval`, or what lm-evaluation-harness writes with --log_samples: samples_*.jsonl, or its
    directory.
    """
    from lorachain.evaluation.compare import compare_results
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import comparison_tables

    console = ConsoleReporter()
    for table in comparison_tables(compare_results(a, b, seed=seed), with_flips=flips):
        console.table(table)
