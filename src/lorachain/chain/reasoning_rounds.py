"""Rounds of writing and training: each round's model writes for the next (STaR, Zelikman et al. 2022,
arXiv 2203.14465).

Every round trains a new LoRA from the same parent, so that a round's mistakes are not trained on twice.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lorachain.artifacts import Measure, read_training_info
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.pipeline import run_stages
from lorachain.chain.reasoning_stage import choose_writer, write_with, writing_summary
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import find_scored_model
from lorachain.chain.stages import Stage, find_reasoning_step, trained_on_reasoning
from lorachain.chain.state import why_stale, why_start_differs
from lorachain.chain.written_reasoning import load_writing_data, writing_fingerprint
from lorachain.evaluation.explained import explained_correct
from lorachain.evaluation.statistics import SIGNIFICANCE, comparison_summary, discordant, mcnemar_exact
from lorachain.inference.engines.select import EngineOptions
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO


@dataclass(frozen=True, slots=True)
class Round:
    """One round: what it trained, and the report of what it wrote, are in `folder`."""

    number: int
    folder: Path
    explained: Measure | None
    """Explained accuracy after training; None where no reasoning was kept."""


def write_in_rounds(
    context: ChainContext,
    runtime: Runtime,
    rounds: int,
    *,
    engine: EngineOptions,
    subjects: Sequence[str] | None = None,
) -> list[Round]:
    """Writes and trains up to `rounds` times; stops where a round is not significantly better on dev than the last.

    Where the training questions have some reasoning already, round 0 trains on that alone, so that its model writes the
    first round. The chain's stage 02 ends as the last round. Called again, finished rounds are used as they are.

    Raises:
        LorachainError: what writing or training raises; finished rounds are kept.
    """
    context = replace(context, confirm=lambda question: True)
    step = find_reasoning_step()
    stage = trained_on_reasoning(step)
    processes = runtime.processes
    done: list[Round] = []
    if load_writing_data(context, subjects=subjects).skipped["have reasoning"]:
        done.append(_first_round(context, runtime, step, stage))
    for number in range(1, rounds + 1):
        writer = str(done[-1].folder) if done else str(stage.parent)
        folder = _folder(context, step, number)
        finished = partial(_is_finished, context, runtime, stage, folder, writer, engine, subjects)
        if not processes.broadcast(finished):
            report = write_with(context, runtime, writer, None, engine=engine, subjects=subjects)
            context.reporter.message(f"round {number}: {writing_summary(report)}")
            run_stages(context, runtime, [stage])
            processes.broadcast(partial(_keep, context, step, stage, folder))
        done.append(processes.broadcast(partial(_round, number, folder)))
        if len(done) > 1 and (reason := _why_stop(done[-2], done[-1])):
            context.reporter.message(f"round {number}: {reason}; stopping")
            break
    return done


def _folder(context: ChainContext, step: Stage, number: int) -> Path:
    return context.output(step).with_name(f"reasoning-round-{number}")


def _first_round(context: ChainContext, runtime: Runtime, step: Stage, stage: Stage) -> Round:
    """Trains on the reasoning that the sources have; there are no samples yet that a preference could be trained on."""
    folder = _folder(context, step, 0)
    config = context.config
    sources_alone = {
        "reasoning": config.reasoning.model_copy(update={"enabled": False}),
        "stages": {**config.stages, stage.name: config.stages[stage.name].without_preference()},
    }
    context = replace(context, config=config.model_copy(update=sources_alone))
    processes = runtime.processes

    def must_train() -> bool:
        missing = not (folder / TRAINING_INFO).is_file()
        return missing or bool(why_stale(context, stage, folder, read_training_info(folder)))

    if processes.broadcast(must_train):
        run_stages(context, runtime, [stage])
        processes.broadcast(partial(_keep, context, step, stage, folder))
    return processes.broadcast(partial(_round, 0, folder))


def _is_finished(
    context: ChainContext,
    runtime: Runtime,
    stage: Stage,
    folder: Path,
    what: str,
    engine: EngineOptions,
    subjects: Sequence[str] | None,
) -> bool:
    """Whether the round in `folder` was written by the model `what` from the same data and settings, and trained."""
    path = folder / REASONING_REPORT
    if not path.is_file() or why_start_differs(context, stage, read_training_info(folder)):
        return False
    writer = find_scored_model(context, what)
    choice = choose_writer(runtime, writer, engine)
    data = load_writing_data(context, subjects=subjects)
    report = ReasoningReport.read(path)
    return (
        report.depends_on_sha256 == writing_fingerprint(context, data, writer, choice)
        and report.samples_per_question >= context.config.reasoning.samples
    )


def _keep(context: ChainContext, step: Stage, stage: Stage, folder: Path) -> None:
    """Keeps a round's adapter, scores and report beside the chain's written reasoning."""
    report = context.output(step) / REASONING_REPORT
    with atomic_folder(folder) as staging:
        shutil.copytree(context.output(stage), staging, dirs_exist_ok=True)
        if report.is_file():
            shutil.copy2(report, staging / REASONING_REPORT)


def _round(number: int, folder: Path) -> Round:
    return Round(number, folder, read_training_info(folder).measures.after.get("explained"))


def _why_stop(before: Round, after: Round) -> str:
    """Why another round would not help; empty where the round is significantly better than the one before."""
    if before.explained is None or after.explained is None:
        return "no reasoning was kept" if after.explained is None else ""
    first, second = explained_correct(before.explained.detail), explained_correct(after.explained.detail)
    if len(first) != len(second):
        return "the rounds were measured on different questions"
    lost, gained = discordant(first, second)
    p = mcnemar_exact(lost, gained)
    return "" if p < SIGNIFICANCE and gained > lost else comparison_summary(lost, gained, f"round {before.number}")
