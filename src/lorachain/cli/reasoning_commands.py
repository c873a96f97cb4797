"""write-reasoning and export-rewards."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.cli.chain_commands import run_command, stoppable
from lorachain.errors import ConfigError


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
    rounds: Annotated[
        int,
        typer.Option("--rounds", min=0, help="Write and train so many times, each round with the last one's model."),
    ] = 0,
    engine: Annotated[str, typer.Option("--engine", help="What writes: local, openai (a server), vllm.")] = "local",
    base_url: o.BaseUrl = None,
    server_model: Annotated[
        str | None, typer.Option("--server-model", help="The server's name for its model (its only one).")
    ] = None,
    completions: o.Completions = False,
    concurrency: o.Concurrency = 8,
    timeout: o.Timeout = 600,
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
    if rounds and (writer is not None or out is not None):
        raise ConfigError(
            "--rounds writes with each round's own model, for the chain: it allows neither --from nor --out"
        )
    if writer is None and out is None and not subjects and engine == "local" and not rounds:
        run_command(common, "write-reasoning", dry_run)
        return

    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.chain.reasoning_rounds import write_in_rounds
    from lorachain.chain.reasoning_stage import plan_writing, write_with, writing_summary
    from lorachain.chain.runtime import refuse_launcher, start_runtime
    from lorachain.chain.stages import stages_of_command

    context = o.build_context(common, "write-reasoning", stages_of_command("write-reasoning"))
    options = o.engine_options(
        engine,
        base_url=base_url,
        server_model=server_model,
        completions=completions,
        concurrency=concurrency,
        timeout=timeout,
        token_budget=context.config.validation.token_budget,
    )
    if dry_run:
        planned = plan_writing(context, writer or "merge", out, engine=options, subjects=subjects)
        print(json.dumps({**planned, "rounds": rounds or None}, ensure_ascii=False, indent=2))
        return
    quiet_libraries()
    refuse_launcher(options.engine, "write-reasoning")  # before the processes join: each of them says so and exits
    runtime = start_runtime(context.config, shared=True)
    with stoppable(context, "write-reasoning"):
        if rounds:
            for done in write_in_rounds(context, runtime, rounds, engine=options, subjects=subjects):
                score = done.explained.summary if done.explained else "no reasoning to explain with"
                context.reporter.message(f"round {done.number}: {score} -> {done.folder}")
            return
        report = write_with(context, runtime, writer or "merge", out, engine=options, subjects=subjects)
    context.reporter.message(writing_summary(report))
    if out is not None:
        context.reporter.message(f"use it with: --exam {out / 'exam'}")


@app.command("export-rewards", epilog="Example: lorachain export-rewards --exam my-exam --out rewards")
def export_rewards(
    out: Annotated[Path, typer.Option("--out", help="Directory for trl/, swift/ and lorachain_rewards.py.")],
    exam: Annotated[list[str], typer.Option("--exam", help="Path, hub id or `sample`; repeatable.")],
    orders: Annotated[int, typer.Option("--orders", min=1, max=5, help="Orders of the options per question.")] = 2,
    subjects: Annotated[list[str] | None, typer.Option("--subjects", help="Only these; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    skip_bad_rows: o.SkipBadRows = False,
) -> None:
    """Write training questions as prompts for GRPO, with rewards that TRL and ms-swift import."""
    from lorachain.chain.exams import load_exam_questions
    from lorachain.data.exam import load_exam
    from lorachain.data.gates.held_out import without_same_questions
    from lorachain.data_settings import ContaminationConfig
    from lorachain.export.rewards import REWARD_FILE
    from lorachain.export.rewards import export_rewards as write
    from lorachain.report.console import ConsoleReporter

    train = load_exam(exam, "train", subjects=subjects, max_samples=limit, skip_bad_rows=skip_bad_rows)
    held_out = load_exam_questions(exam, max_questions=0, skip_bad_rows=skip_bad_rows).held_out
    questions, left_out = without_same_questions(train.questions, held_out, ContaminationConfig())
    counts = write(questions, out, orders=orders, seed=seed)
    console = ConsoleReporter()
    console.message(f"{counts['rows']:,} prompts from {counts['questions']:,} questions -> {out}")
    if left_out:
        console.message(f"{left_out} questions are also in dev or few-shot and were left out")
    console.message(f"rewards: {out / REWARD_FILE}")
