"""Every statistic equals the reference, which counts all outcomes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorachain.evaluation import statistics
from reference import exam_statistics as reference

hits = st.lists(st.booleans(), min_size=1, max_size=12)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12)
levels = st.floats(1e-6, 1.0)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = statistics.wilson(correct, n)
    assert (low, high) == pytest.approx(reference.wilson(correct, n), abs=1e-9)
    proportion = statistics.proportion(correct, n)
    assert proportion == {"n": n, "correct": correct, "accuracy": correct / n, "wilson95": [low, high]}


@given(pairs)
def test_exact_mcnemar_counts_every_way(drawn: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in drawn], [y for _, y in drawn]
    a_only, b_only = statistics.discordant(a, b)
    assert a_only - b_only == sum(a) - sum(b)
    assert a_only + b_only == sum(x != y for x, y in drawn)
    assert statistics.mcnemar_exact(a_only, b_only) == pytest.approx(reference.exact_mcnemar(a, b))


@settings(max_examples=60)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_against_chance_counts_every_outcome(counts: tuple[int, int]) -> None:
    """Fractions decide what is equally likely, where floats of two such counts may differ in the last bit."""
    correct, n = counts
    for chance in (Fraction(1, 5), Fraction(1, 2)):
        expected = reference.two_sided_binomial(correct, n, chance)
        assert statistics.differs_from_chance(correct, n, float(chance)) == pytest.approx(expected)
    assert statistics.differs_from_chance(correct, n) == pytest.approx(
        reference.two_sided_binomial(correct, n, Fraction(1, 5))
    )


@given(st.lists(levels, min_size=1, max_size=6))
def test_holm_is_the_closed_bonferroni_test(p_values: list[float]) -> None:
    assert statistics.holm(p_values) == pytest.approx(reference.holm(p_values))


@settings(max_examples=8)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=14), st.integers(0, 3))
def test_paired_bootstrap_is_that_of_all_draws(drawn: list[tuple[bool, bool]], seed: int) -> None:
    a, b = [x for x, _ in drawn], [y for _, y in drawn]
    if len({y - x for x, y in drawn}) < 2:
        return  # one difference only: there is nothing to resample
    distribution = reference.resampled_mean([float(y) - float(x) for x, y in drawn])
    interval = statistics.paired_bootstrap(a, b, seed=seed)
    assert reference.plausible_interval(distribution, interval)


@settings(max_examples=8)
@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=6), min_size=1, max_size=3))
def test_macro_interval_is_that_of_all_draws(groups: list[list[bool]]) -> None:
    if any(len(set(group)) == 1 for group in groups):
        return
    distribution = reference.mean_of([reference.resampled_mean([float(hit) for hit in group]) for group in groups])
    interval = statistics.macro_interval(groups)
    assert interval is not None
    assert reference.plausible_interval(distribution, interval)


def alternating(n: int) -> tuple[list[bool], list[bool]]:
    """Many questions with all four outcomes in different numbers: intervals of two draws are hardly ever the same."""
    rng = np.random.default_rng(0)
    return (rng.random(n) < 0.41).tolist(), (rng.random(n) < 0.63).tolist()


def test_every_bootstrap_repeats_itself_and_depends_on_its_seed() -> None:
    """With few possible values an unseeded one would often agree by chance; here hardly ever."""
    a, b = alternating(997)
    intervals = [statistics.paired_bootstrap(a, b, seed=seed) for seed in (0, 0, 0, 1, 2, 3)]
    assert len(set(intervals[:3])) == 1
    assert len(set(intervals)) > 1
    assert statistics.paired_bootstrap(a, b) == intervals[0]
    macros = [statistics.macro_interval([a, b[:431]], seed=seed) for seed in (0, 0, 0, 1, 2, 3)]
    assert len(set(macros[:3])) == 1
    assert len(set(macros)) > 1
    assert statistics.macro_interval([a, b[:431]]) == macros[0]

    def mean(sample: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(sample.mean(axis=axis))

    values = np.random.default_rng(1).normal(size=200)
    assert len({statistics.resampled_statistic(mean, [values])[1] for _ in range(3)}) == 1
    assert len(statistics.resampled_statistic(mean, [values])[0]) == statistics.RESAMPLES == 10_000


def test_samples_of_one_statistic_are_drawn_together() -> None:
    """Drawn one by one, the difference of a sample and itself would not be zero."""
    values = np.random.default_rng(2).normal(size=40)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray((a - b).sum(axis=axis) + a.mean(axis=axis))

    drawn, interval = statistics.resampled_statistic(difference, [values, values])
    alone, of_mean = statistics.resampled_statistic(lambda a, axis: a.mean(axis=axis), [values])
    assert interval == pytest.approx(of_mean)
    assert drawn == pytest.approx(alone)


def test_the_number_of_draws_is_a_setting() -> None:
    a, b = alternating(997)
    assert statistics.paired_bootstrap(a, b, resamples=2) != statistics.paired_bootstrap(a, b)


def test_a_bootstrap_of_groups_needs_two_questions_each() -> None:
    assert statistics.macro_interval([]) is None
    assert statistics.macro_interval([[True, False], [True]]) is None
    assert statistics.macro_interval([[True, False], [True, False]]) is not None
    with pytest.raises(ValueError, match="got 1 and 1"):
        statistics.paired_bootstrap([True], [False])
    with pytest.raises(ValueError, match="got 2 and 3"):
        statistics.paired_bootstrap([True, False], [True, False, True])


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009999, "p < 0.001"), (0.001, "p = 0.001"), (0.04949, "p = 0.049"), (1.0, "p = 1.000")]
)
def test_p_is_written_with_three_digits(p: float, text: str) -> None:
    assert statistics.p_text(p) == text


@settings(max_examples=60)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_summary_says_below_five_per_cent_what_it_is(counts: tuple[int, int]) -> None:
    correct, n = counts
    p = reference.two_sided_binomial(correct, n, Fraction(1, 5))
    summary = statistics.chance_summary(correct, n)
    if p >= 0.05:
        assert summary.startswith("not significantly different from chance (p = ")
    else:
        assert summary.startswith("above chance" if 5 * correct > n else "below chance")


@settings(max_examples=60)
@given(st.integers(0, 15), st.integers(0, 15))
def test_a_comparison_says_who_is_better(a_only: int, b_only: int) -> None:
    a = [True] * a_only + [False] * b_only
    p = statistics.mcnemar_exact(a_only, b_only)
    summary = statistics.comparison_summary(a_only, b_only, "the base")
    if p >= 0.05:
        assert summary.startswith("not significantly different from the base (p = ")
    else:
        assert summary.startswith(f"{'better' if sum(a) < b_only else 'worse'} than the base (p ")
