"""eval and compare."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.errors import ConfigError

_HERE = Path(".")
_SPLITS = ("dev", "train", "test")


@app.command("eval")
def evaluate(
    what: Annotated[
        str, typer.Argument(metavar="MODEL", help="base, a step (init 00 01 merge 02), a folder, or a hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", help="results.json to write; rows beside it as .parquet.")],
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
    token_budget: Annotated[int, typer.Option("--token-budget", min=1, help="Padded tokens at a time.")] = 8192,
    model: o.Model = "gemma-3-270m",
    workspace: o.WorkspaceDir = _HERE,
    device: o.Device = None,
    seed: o.Seed = None,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Score a model on KorMedMCQA; an interrupted evaluation goes on where it stopped."""
    from lorachain.chain.scored_model import find_scored_model
    from lorachain.data.exam import load_exam
    from lorachain.errors import DataError
    from lorachain.evaluation.protocols.registry import make_protocol
    from lorachain.evaluation.runner import run_evaluation
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import result_table

    if split not in _SPLITS:
        raise ConfigError(f"--split is {split!r}; allowed: {', '.join(_SPLITS)}")
    context = o.build_context(o.Common(model, workspace, exam=exam, device=device, seed=seed), [])
    sources = context.sources.exam
    loaded = load_exam(
        sources,
        cast(Literal["dev", "train", "test"], split),
        subjects=subjects,
        skip_bad_rows=skip_bad_rows,
        max_samples=limit,
        allow_test=split == "test",
    )
    examples: dict[str, list[Any]] = {}
    try:
        for question in load_exam(sources, "fewshot", skip_bad_rows=skip_bad_rows).questions:
            examples.setdefault(question.subject, []).append(question)
    except DataError:
        examples = {}  # the protocol says so if it needs them
    asked = make_protocol(
        protocol,
        shots=shots,
        examples=examples,
        rotations=rotations,
        samples=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        token_budget=token_budget,
    )
    found = find_scored_model(context, what)
    identity = found.identity()
    scored, encoder = found.load(context.device, context.dtype)
    begun = time.monotonic()
    with context.reporter.bar(f"{protocol} on {split}", len(loaded.questions)) as bar:

        def on_progress(done: int, total: int, right: int) -> None:
            rate = done / max(time.monotonic() - begun, 1e-9)
            bar(done, f"{rate:.1f} questions/s, {100 * right / max(done, 1):.1f} % right")

        result = run_evaluation(
            scored,
            encoder,
            loaded.questions,
            asked,
            out=out,
            model_identity=identity,
            split=split,
            selection={"subjects": subjects, "limit": limit},
            on_progress=on_progress,
        )
    ConsoleReporter().table(result_table(result, f"{identity['name']} -> {out}"))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="results.json of the one, the base say.")],
    b: Annotated[Path, typer.Argument(help="results.json of the other.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    flips: Annotated[bool, typer.Option("--flips/--no-flips", help="List every question that changed.")] = True,
) -> None:
    """Is B better than A? Question by question, with the exact test; refuses results that were not asked alike."""
    from lorachain.evaluation.compare import compare_results
    from lorachain.report.console import ConsoleReporter
    from lorachain.report.tables import comparison_tables

    screen = ConsoleReporter()
    for table in comparison_tables(compare_results(a, b, seed=seed), with_flips=flips):
        screen.table(table)
