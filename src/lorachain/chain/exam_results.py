"""Results of `lorachain eval` that a report shows, and the first compared with the last. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorachain.artifacts import Comparison, EvalResult
from lorachain.errors import DataError
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.results import read_results


@dataclass(frozen=True, slots=True)
class ExamResults:
    """Results in the order in which they were named."""

    results: tuple[EvalResult, ...] = ()
    rows: tuple[list[dict[str, Any]], ...] = ()
    """Of each result: one record per question."""
    comparison: Comparison | None = None
    """The last against the first, question by question."""
    not_compared: str = ""
    """Why there is no comparison of several results."""


def load_exam_results(paths: Sequence[Path]) -> ExamResults:
    """Reads results, and compares the last with the first where both asked the same questions in the same way.

    Raises:
        DataError: one of them cannot be read.
    """
    if not paths:
        return ExamResults()
    results, rows = zip(*map(read_results, paths), strict=True)
    try:
        comparison = compare_results(paths[0], paths[-1]) if len(paths) > 1 else None
    except DataError as error:
        return ExamResults(results, rows, not_compared=str(error))
    return ExamResults(results, rows, comparison)
