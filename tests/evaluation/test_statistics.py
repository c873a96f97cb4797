"""Statistics equal published and hand-computed values."""

import math
from fractions import Fraction

import pytest

from lorachain.evaluation import statistics


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # 3.8416 / 13.8416
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17, table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(correct: int, n: int, low: float, high: float) -> None:
    assert statistics.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("a_only", "b_only", "p"),
    [(0, 0, 1.0), (0, 5, 2 * 0.5**5), (5, 0, 2 * 0.5**5), (1, 9, 2 * 11 / 1024), (4, 4, 1.0), (3, 3, 1.0)],
)
def test_mcnemar_exact(a_only: int, b_only: int, p: float) -> None:
    assert statistics.mcnemar_exact(a_only, b_only) == pytest.approx(p)


@pytest.mark.parametrize(("correct", "n"), [(201, 1059), (1, 1), (2, 2), (0, 20), (30, 100)])
def test_differs_from_chance(correct: int, n: int) -> None:
    """Two-sided: every outcome that is at most as probable as this one counts."""
    mass = [math.comb(n, k) * Fraction(1, 5) ** k * Fraction(4, 5) ** (n - k) for k in range(n + 1)]
    expected = float(sum(m for m in mass if m <= mass[correct]))
    assert statistics.differs_from_chance(correct, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("correct", "n", "summary"),
    [
        (1, 1, "not significantly different from chance (p = 0.200)"),
        (2, 2, "above chance (p = 0.040)"),
        (0, 20, "below chance (p = 0.022)"),
        (100, 100, "above chance (p < 0.001)"),
    ],
)
def test_chance_summary(correct: int, n: int, summary: str) -> None:
    assert statistics.chance_summary(correct, n) == summary


@pytest.mark.parametrize(
    ("a_only", "b_only", "summary"),
    [
        (5, 5, "not significantly different from the base (p = 1.000)"),
        (1, 9, "better than the base (p = 0.021)"),
        (40, 2, "worse than the base (p < 0.001)"),
    ],
)
def test_comparison_summary(a_only: int, b_only: int, summary: str) -> None:
    assert statistics.comparison_summary(a_only, b_only, "the base") == summary


def test_discordant_pairs() -> None:
    assert statistics.discordant([True, True, False, False], [True, False, True, True]) == (1, 2)
    with pytest.raises(ValueError, match="longer"):
        statistics.discordant([True], [True, False])


def test_paired_bootstrap_covers_the_difference() -> None:
    a = [True] * 40 + [False] * 60
    b = [True] * 30 + [False] * 10 + [True] * 30 + [False] * 30  # +0.2
    low, high = statistics.paired_bootstrap(a, b, seed=1)
    assert low < 0.2 < high
    # the differences' standard error is sqrt((0.4 - 0.04) / 100) = 0.06
    assert high - low == pytest.approx(2 * 1.96 * 0.06, rel=0.1)
    assert statistics.paired_bootstrap(a, a) == (0.0, 0.0)
    assert statistics.paired_bootstrap([False, True], [True, True]) == (0.0, 1.0)  # two questions are enough
    with pytest.raises(ValueError, match="equally long"):
        statistics.paired_bootstrap([True], [True])
