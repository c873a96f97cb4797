"""Intervals and tests of scores, by counting every outcome: slow, exact, and without any statistics library."""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The two p at which |correct/n - p| is z standard errors of p (Wilson 1927): roots of a quadratic equation.

    (x - p)^2 = z^2 p (1 - p) / n, that is (1 + z^2/n) p^2 - (2 x + z^2/n) p + x^2 = 0.
    """
    x, c = correct / n, Z95**2 / n
    a, b = 1 + c, -(2 * x + c)
    root = math.sqrt(b * b - 4 * a * x * x)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def two_sided_binomial(hits: int, n: int, p: Fraction) -> float:
    """The probability of all counts that are at most as likely as this one."""
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return float(sum(m for m in mass if m <= mass[hits]))


def exact_mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """McNemar 1947, exactly: every way in which the questions that only one of the two gets right could have been
    shared out between them, each as likely as any other; the share of those at least as uneven as this one."""
    differing = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    if not differing:
        return 1.0
    uneven = abs(sum(x for x, _ in differing) - sum(y for _, y in differing))
    n = len(differing)
    ways = itertools.product((0, 1), repeat=n)
    return sum(abs(n - 2 * sum(way)) >= uneven for way in ways) / 2.0**n


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm 1979 as the closed test that it is: a hypothesis is rejected where Bonferroni rejects every set of
    hypotheses that contains it."""
    indices = range(len(p_values))
    sets = [chosen for size in indices for chosen in itertools.combinations(indices, size + 1)]
    return [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if index in chosen)
        for index in indices
    ]


def micro_accuracy(subjects: Sequence[str], correct: Sequence[bool]) -> float:
    """Of all questions, whatever their subject."""
    return sum(correct) / len(correct)


def macro_accuracy(subjects: Sequence[str], correct: Sequence[bool]) -> float:
    """The mean of the subjects' accuracies, whatever their number of questions."""
    accuracies = []
    for subject in set(subjects):
        hits = [hit for of, hit in zip(subjects, correct, strict=True) if of == subject]
        accuracies.append(sum(hits) / len(hits))
    return sum(accuracies) / len(accuracies)


# ---- bootstrap -------------------------------------------------------------------------------------------------------

Distribution = dict[float, float]
"""Value to probability."""


def resampled_mean(values: Sequence[float]) -> Distribution:
    """The exact distribution of the mean of len(values) draws with replacement."""
    n = len(values)
    sums: dict[float, float] = {0.0: 1.0}
    for _ in range(n):
        drawn: dict[float, float] = {}
        for total, probability in sums.items():
            for value in values:
                key = round(total + value, 9)
                drawn[key] = drawn.get(key, 0.0) + probability / n
        sums = drawn
    return {total / n: probability for total, probability in sums.items()}


def resampled(items: int, statistic: Callable[[Sequence[int]], float]) -> Distribution:
    """The exact distribution of a statistic of the drawn indices: all items ** items draws."""
    distribution: Distribution = {}
    for draw in itertools.product(range(items), repeat=items):
        value = statistic(draw)
        distribution[value] = distribution.get(value, 0.0) + float(items) ** -items
    return distribution


def mean_of(distributions: Sequence[Distribution]) -> Distribution:
    """The distribution of the mean of independent values."""
    means: Distribution = {0.0: 1.0}
    for distribution in distributions:
        combined: Distribution = {}
        for (a, p), (b, q) in itertools.product(means.items(), distribution.items()):
            combined[a + b / len(distributions)] = combined.get(a + b / len(distributions), 0.0) + p * q
        means = combined
    return means


def quantile(distribution: Distribution, level: float) -> float:
    """The smallest value that at least this share of the draws does not exceed."""
    total = 0.0
    for value in sorted(distribution):
        total += distribution[value]
        if total >= level - 1e-12:
            return value
    return max(distribution)


def plausible_interval(distribution: Distribution, interval: tuple[float, float], *, draws: int = 10_000) -> bool:
    """Whether an interval from that many random draws is a 95 % percentile interval of the distribution: the share of
    draws below a quantile has a standard error, and five of them are allowed."""
    error = 5 * math.sqrt(0.025 * 0.975 / draws)
    for bound, level in zip(interval, (0.025, 0.975), strict=True):
        low, high = quantile(distribution, level - error), quantile(distribution, min(1.0, level + error))
        if not low - 1e-6 <= bound <= high + 1e-6:
            return False
    return True
