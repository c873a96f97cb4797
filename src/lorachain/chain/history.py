"""Scores of a chain's validations, oldest first, and what one says against an earlier one."""

import time
from collections.abc import Sequence
from pathlib import Path

from lorachain.artifacts import EpochScore, ValidationHistory, ValidationResult
from lorachain.evaluation.validation_result import compare_validations
from lorachain.workspace import VALIDATION_RESULTS


def score_epoch(
    stage: str, epoch: int, step: int, result: ValidationResult, earlier: Sequence[EpochScore]
) -> EpochScore:
    """A validation as an entry of the history, compared with the stage's start and the chain's first entry."""
    compared = {}
    starts = {
        "stage start": next((score for score in earlier if score.stage == stage and score.epoch == 0), None),
        "base model": next((score for score in earlier if score.epoch == 0), None),
    }
    for name, start in starts.items():
        if start is not None and start.result.asks_the_same(result):
            compared[name] = compare_validations(result, start.result, other=f"the {name}")
    return EpochScore(
        stage=stage,
        epoch=epoch,
        step=step,
        at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        result=result,
        compared_with=compared,
    )


def read_history(folder: Path) -> list[EpochScore]:
    """The history in an output directory, oldest first; empty where there is none.

    Raises:
        WorkspaceError: the file is damaged.
    """
    path = folder / VALIDATION_RESULTS
    return list(ValidationHistory.read(path).results) if path.exists() else []


def write_history(folder: Path, scores: Sequence[EpochScore]) -> None:
    ValidationHistory(results=tuple(scores)).write(folder / VALIDATION_RESULTS)
