"""The table of an ablation: means over seeds, intervals, and paired tests against the chain. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.stats import permutation_test

from lorachain.artifacts.ablation import AblationArm, AblationCell, AgainstChain, ArmScore, ItemScores, PairedSeed
from lorachain.errors import DataError
from lorachain.evaluation.statistics import SIGNIFICANCE, discordant, holm, mcnemar_exact, resampled_statistic

CHAIN = "chain"
_SIGN_FLIPS = 9999
_SEED = 0
_TEST = "sign flips of the paired differences, seeds averaged within each item"
_LOWER_IS_BETTER = "perplexity"


def summarize_arms(scores: Mapping[str, Sequence[ArmScore]], titles: Mapping[str, str]) -> tuple[AblationArm, ...]:
    """One entry per arm, in the order given; each measure against the arm `chain` where that is among them.

    Args:
        scores: per arm, one score per seed, the same seeds in the same order.

    Raises:
        DataError: two scores of a measure were made from different items.
    """
    chain = _by_measure(scores[CHAIN]) if CHAIN in scores else {}
    tested: dict[tuple[str, str], AgainstChain] = {}
    for arm, seeds in scores.items():
        for measure, items in _by_measure(seeds).items():
            if arm != CHAIN and measure in chain:
                tested[arm, measure] = _against_chain(items, chain[measure], [score.seed for score in seeds])
    adjusted = holm([test.p for test in tested.values()])
    for (key, test), p_holm in zip(list(tested.items()), adjusted, strict=True):
        tested[key] = test.model_copy(update={"p_holm": p_holm, "verdict": _verdict(test.difference, p_holm, key[1])})
    return tuple(
        AblationArm(
            arm=arm,
            title=titles[arm],
            supervised_tokens=tuple(sum(stage.supervised_tokens for stage in score.stages) for score in seeds),
            cells=tuple(_cell(items, tested.get((arm, measure))) for measure, items in _by_measure(seeds).items()),
        )
        for arm, seeds in scores.items()
    )


def _by_measure(seeds: Sequence[ArmScore]) -> dict[str, list[ItemScores]]:
    measures: dict[str, list[ItemScores]] = {}
    for score in seeds:
        for items in score.scores:
            measures.setdefault(items.measure, []).append(items)
    return measures


def _values(items: Sequence[ItemScores]) -> Any:
    """(seeds, n) of 1.0 for a right answer, or of nats."""
    first = items[0]
    if any((other.data_sha256, other.n) != (first.data_sha256, first.n) for other in items):
        raise DataError(f"{first.measure}: the scores were made from different items; remove them and run again")
    if first.kind == "share":
        return np.array([[hit == "1" for hit in str(seed.correct)] for seed in items], dtype=np.float64)
    return np.array([seed.nll for seed in items], dtype=np.float64)


def _weights(items: Sequence[ItemScores]) -> Any:
    """(n,) what the mean of a measure weighs its items with: tokens of documents, or 1."""
    return np.array(items[0].tokens if items[0].kind == "perplexity" else [1] * items[0].n, dtype=np.float64)


def _statistic(kind: str, values: Any, weights: Any, axis: int = -1) -> Any:
    mean = values.sum(axis=axis) / weights.sum(axis=axis)
    return np.exp(mean) if kind == "perplexity" else mean


def _cell(items: Sequence[ItemScores], against: AgainstChain | None) -> AblationCell:
    first, values, weights = items[0], _values(items), _weights(items)
    mean = values.mean(axis=0)
    interval = None
    if first.n > 1:
        interval = _interval(lambda v, w, axis=-1: _statistic(first.kind, v, w, axis), (mean, weights))
    return AblationCell(
        measure=first.measure,
        protocol_version=first.protocol_version,
        value=float(_statistic(first.kind, mean, weights)),
        interval95=interval,
        n=first.n,
        unit=first.unit,
        by_seed=tuple(float(_statistic(first.kind, row, weights)) for row in values),
        against_chain=against,
    )


def _against_chain(items: Sequence[ItemScores], chain: Sequence[ItemScores], seeds: Sequence[int]) -> AgainstChain:
    """Before correction; `items` and `chain` have the same seeds in the same order."""
    both = _values([*items, *chain])
    arm, other = both[: len(items)].mean(axis=0), both[len(items) :].mean(axis=0)
    weights, kind = _weights(items), items[0].kind

    def difference(a: Any, b: Any, w: Any, axis: int = -1) -> Any:
        return _statistic(kind, a, w, axis) - _statistic(kind, b, w, axis)

    differs = len(arm) > 1 and bool((arm != other).any())
    by_seed = []
    if kind == "share":
        for seed, one, chains in zip(seeds, items, chain, strict=True):
            lost, gained = discordant([hit == "1" for hit in str(chains.correct)], [h == "1" for h in str(one.correct)])
            by_seed.append(PairedSeed(seed=seed, lost=lost, gained=gained, mcnemar_p=mcnemar_exact(lost, gained)))
    return AgainstChain(
        difference=float(difference(arm, other, weights)),
        interval95=_interval(difference, (arm, other, weights)) if differs else (0.0, 0.0),
        test=_TEST,
        p=_sign_flip_p(arm - other) if differs else 1.0,
        p_holm=1.0,
        verdict="not significantly different",
        by_seed=tuple(by_seed),
    )


def _sign_flip_p(differences: Any) -> float:
    """Two-sided p of the sum of paired differences if each had either sign with equal probability."""
    result = permutation_test(
        (differences,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        n_resamples=_SIGN_FLIPS,
        vectorized=True,
        batch=500,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)


def _interval(statistic: Any, samples: Sequence[Any]) -> tuple[float, float]:
    """95 % percentile bootstrap interval, the items resampled together."""
    if all((sample == sample[0]).all() for sample in samples):
        value = float(statistic(*samples))  # scipy's bootstrap of identical values warns of a degenerate distribution
        return value, value
    return resampled_statistic(statistic, samples)[1]


def _verdict(
    difference: float, p_holm: float, measure: str
) -> Literal["better", "worse", "not significantly different"]:
    if p_holm >= SIGNIFICANCE:
        return "not significantly different"
    return "better" if (difference > 0) != (_LOWER_IS_BETTER in measure) else "worse"
