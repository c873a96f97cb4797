"""Rounds of writing and training: each round's model writes for the next (STaR, Zelikman et al. 2022,
arXiv 2203.14465).

Every round trains a new LoRA from the same parent, so that a round's mistakes are not trained on twice.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorachain.artifacts import Measure, TrainingInfo, read_training_info
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.pipeline import run_stages
from lorachain.chain.reasoning_stage import write_with, writing_summary
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import Stage, find_reasoning_step, find_training_stage
from lorachain.evaluation.explained import explained_correct
from lorachain.evaluation.statistics import SIGNIFICANCE, comparison_summary, discordant, mcnemar_exact
from lorachain.inference.engines.select import EngineOptions
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO


@dataclass(frozen=True, slots=True)
class Round:
    """One round: what it wrote and trained is in `folder`."""

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
    first round. The chain's stage 02 ends as the last round.

    Raises:
        LorachainError: what writing or training raises; finished rounds are kept.
    """
    step = find_reasoning_step()
    stage = find_training_stage(step.output.removesuffix("_training"))
    replacing = replace(context, confirm=lambda question: True)
    done: list[Round] = []
    if _begins_with_reasoning(context, stage):
        done.append(_finished_round(context, step, stage, 0))
    for number in range(1, rounds + 1):
        writer = stage.name if done or number > 1 else str(stage.parent)
        report = write_with(replacing, runtime, writer, None, engine=engine, subjects=subjects)
        context.reporter.message(f"round {number}: {writing_summary(report)}")
        run_stages(replacing, runtime, [stage])
        done.append(_finished_round(context, step, stage, number))
        if len(done) > 1 and (reason := _why_stop(done[-2], done[-1])):
            context.reporter.message(f"round {number}: {reason}; stopping")
            break
    return done


def _begins_with_reasoning(context: ChainContext, stage: Stage) -> bool:
    """Whether the stage's model was trained on reasoning that its sources have."""
    folder = context.output(stage)
    if not (folder / TRAINING_INFO).is_file():
        return False
    return read_training_info(folder).counts.get("questions_with_reasoning", 0) > 0


def _finished_round(context: ChainContext, step: Stage, stage: Stage, number: int) -> Round:
    """Keeps a round's adapter, scores and report beside the chain's written reasoning."""
    written = context.output(step)
    folder = written.with_name(f"reasoning-round-{number}")
    trained = context.output(stage)
    with atomic_folder(folder) as staging:
        shutil.copytree(trained, staging / "adapter")
        shutil.copy2(trained / TRAINING_INFO, staging / TRAINING_INFO)
        if number and (written / REASONING_REPORT).is_file():
            shutil.copy2(written / REASONING_REPORT, staging / REASONING_REPORT)
    info: TrainingInfo = read_training_info(trained)
    return Round(number, folder, info.measures.after.get("explained"))


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
