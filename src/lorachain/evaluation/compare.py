"""Is B better than A? Question by question, and only where the two were asked the same in the same way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorachain.errors import DataError
from lorachain.evaluation.results import read_results
from lorachain.evaluation.statistics import comparison_summary, discordant, mcnemar_exact, paired_bootstrap, proportion

_MUST_AGREE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "protocol": lambda result: result["protocol"],
    "protocol version": lambda result: result["protocol_version"],
    "settings": lambda result: result["settings"],
    "split": lambda result: result["split"],
    "questions": lambda result: f"{result['data']['n']} with hash {result['data']['sha256'][:12]}",
}


def compare_results(path_a: Path, path_b: Path, *, seed: int = 0) -> dict[str, Any]:
    """B against A: both accuracies with their intervals, the difference with its paired bootstrap interval, exact
    McNemar, the words, and every flip.

    Raises:
        DataError: a result cannot be read, or the two differ in protocol, version, settings, split or questions.
    """
    (a, rows_a), (b, rows_b) = read_results(path_a), read_results(path_b)
    differing = [f"{what}: {read(a)} and {read(b)}" for what, read in _MUST_AGREE.items() if read(a) != read(b)]
    if differing:
        raise DataError(
            f"{path_a} and {path_b} cannot be compared, they differ in {'; '.join(differing)}. "
            "Evaluate both models with the same protocol on the same questions"
        )
    right_a, right_b = ([bool(row["correct"]) for row in rows] for rows in (rows_a, rows_b))
    lost, gained = discordant(right_a, right_b)
    n = len(right_a)
    return {
        "protocol": a["protocol"],
        "protocol_version": a["protocol_version"],
        "settings": a["settings"],
        "split": a["split"],
        "n": n,
        "a": {"model": a["model"], **proportion(sum(right_a), n)},
        "b": {"model": b["model"], **proportion(sum(right_b), n)},
        "difference": (sum(right_b) - sum(right_a)) / n,
        "bootstrap95": list(paired_bootstrap(right_a, right_b, seed=seed)) if n > 1 else None,
        "mcnemar_p": mcnemar_exact(lost, gained),
        "words": comparison_summary(lost, gained, str(a["model"].get("name", path_a))),
        "gained": [_flip(x, y) for x, y in zip(rows_a, rows_b, strict=True) if y["correct"] and not x["correct"]],
        "lost": [_flip(x, y) for x, y in zip(rows_a, rows_b, strict=True) if x["correct"] and not y["correct"]],
    }


def _flip(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {"exam": a["exam"], "id": a["id"], "gold": a["gold"], "a": a["chosen"], "b": b["chosen"]}
