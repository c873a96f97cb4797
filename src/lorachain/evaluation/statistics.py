"""Intervals and tests of exam scores, all of them scipy's, and their summaries. Imports no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

SIGNIFICANCE = 0.05
RESAMPLES = 10_000
CHANCE = 0.2
"""Accuracy of guessing among five options."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson 95 % score interval of the accuracy correct / n (Wilson 1927), as fractions.

    Raises:
        ValueError: n is not positive, or correct is not in 0..n.
    """
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def proportion(correct: int, n: int) -> dict[str, Any]:
    """An accuracy with its n and its interval, without which it is never reported."""
    return {"n": n, "correct": correct, "accuracy": correct / n, "wilson95": list(wilson(correct, n))}


def differs_from_chance(correct: int, n: int, chance: float = CHANCE) -> float:
    """Two-sided exact binomial p of `correct` out of n under guessing."""
    return float(binomtest(correct, n, chance).pvalue)


def mcnemar_exact(a_only: int, b_only: int) -> float:
    """Exact two-sided McNemar p (McNemar 1947): are the questions that only one of two gets right split evenly?

    1.0 where the two agree on every question.
    """
    discordant = a_only + b_only
    return 1.0 if discordant == 0 else float(binomtest(a_only, discordant, 0.5).pvalue)


def discordant(a: Sequence[bool], b: Sequence[bool]) -> tuple[int, int]:
    """How many questions only a, and only b, gets right.

    Raises:
        ValueError: the two differ in length.
    """
    pairs = list(zip(a, b, strict=True))
    return sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)


def paired_bootstrap(
    a: Sequence[bool], b: Sequence[bool], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of accuracy(b) - accuracy(a), questions resampled in pairs.

    Raises:
        ValueError: the two differ in length, or have fewer than two questions.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a paired bootstrap needs two equally long sequences of 2 or more, got {len(a)} and {len(b)}")
    difference = np.asarray(b, dtype=np.int8) - np.asarray(a, dtype=np.int8)
    result = bootstrap(
        (difference,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed), batch=500
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def macro_interval(groups: Sequence[Sequence[bool]], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean of the groups' accuracies, questions resampled within each group.

    None where a group has fewer than two questions.
    """
    if not groups or min(map(len, groups)) < 2:
        return None

    def macro(*samples: Any, axis: int) -> Any:
        return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)

    result = bootstrap(
        [np.asarray(group, dtype=np.float32) for group in groups], macro, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed), batch=500,
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject where one is below the level of the whole family."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def resampled_statistic(statistic: Any, samples: Sequence[Any]) -> tuple[Any, tuple[float, float]]:
    """The bootstrap distribution of a statistic of paired samples, whose items are resampled together, and its 95 %
    percentile interval.

    Args:
        statistic: of the samples and `axis`, as `scipy.stats.bootstrap` calls it.
    """
    result = bootstrap(
        [np.asarray(sample, dtype=np.float64) for sample in samples], statistic, paired=True, vectorized=True,
        n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0), batch=500,
    )  # fmt: skip
    low, high = result.confidence_interval
    return result.bootstrap_distribution, (float(low), float(high))


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def chance_summary(correct: int, n: int, chance: float = CHANCE) -> str:
    """Whether an accuracy differs significantly from guessing, with its p."""
    p = differs_from_chance(correct, n, chance)
    if p >= SIGNIFICANCE:
        return f"not significantly different from chance ({p_text(p)})"
    return f"{'above' if correct > chance * n else 'below'} chance ({p_text(p)})"


def comparison_summary(a_only: int, b_only: int, a_name: str) -> str:
    """Whether b differs significantly from a, which is called `a_name` ("the start", "the base"), with McNemar's p."""
    p = mcnemar_exact(a_only, b_only)
    if p >= SIGNIFICANCE:
        return f"not significantly different from {a_name} ({p_text(p)})"
    return f"{'better' if b_only > a_only else 'worse'} than {a_name} ({p_text(p)})"
