"""Compares two exam results question by question, where both asked the same questions in the same way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorachain.artifacts.evaluation import ComparedModel, Comparison, EvalResult, Flip
from lorachain.errors import DataError
from lorachain.evaluation.results import read_results
from lorachain.evaluation.statistics import comparison_summary, discordant, mcnemar_exact, paired_bootstrap, proportion

_MUST_AGREE: dict[str, Callable[[EvalResult], Any]] = {
    "protocol": lambda result: result.protocol,
    "protocol version": lambda result: result.protocol_version,
    "settings": lambda result: result.settings,
    "engine": lambda result: result.model.engine or "local",
    "split": lambda result: result.split,
    "questions": lambda result: f"{result.data.n} with hash {result.data.sha256[:12]}",
}


def compare_results(path_a: Path, path_b: Path, *, seed: int = 0) -> Comparison:
    """B against A: both accuracies, the difference with its paired bootstrap interval, exact McNemar, every flip.

    Raises:
        DataError: a result cannot be read, or the two differ in protocol, version, settings, engine, split or
            questions.
    """
    (a, rows_a), (b, rows_b) = read_results(path_a), read_results(path_b)
    differing = [f"{what}: {read(a)} and {read(b)}" for what, read in _MUST_AGREE.items() if read(a) != read(b)]
    if differing:
        raise DataError(
            f"{path_a} and {path_b} cannot be compared, they differ in {'; '.join(differing)}. "
            "Evaluate both models with the same protocol on the same questions"
        )
    correct_a, correct_b = ([bool(row["correct"]) for row in rows] for rows in (rows_a, rows_b))
    lost, gained = discordant(correct_a, correct_b)
    n = len(correct_a)
    pairs = list(zip(rows_a, rows_b, strict=True))
    return Comparison(
        protocol=a.protocol,
        protocol_version=a.protocol_version,
        settings=a.settings,
        split=a.split,
        n=n,
        a=ComparedModel(model=a.model, **proportion(sum(correct_a), n)),
        b=ComparedModel(model=b.model, **proportion(sum(correct_b), n)),
        difference=(sum(correct_b) - sum(correct_a)) / n,
        bootstrap95=paired_bootstrap(correct_a, correct_b, seed=seed) if n > 1 else None,
        mcnemar_p=mcnemar_exact(lost, gained),
        summary=comparison_summary(lost, gained, a.model.name),
        gained=tuple(_flip(x, y) for x, y in pairs if y["correct"] and not x["correct"]),
        lost=tuple(_flip(x, y) for x, y in pairs if x["correct"] and not y["correct"]),
    )


def _flip(a: dict[str, Any], b: dict[str, Any]) -> Flip:
    return Flip(exam=a["exam"], id=a["id"], gold=a["gold"], a=a["chosen"], b=b["chosen"])
