"""The table of an ablation: planted differences are found, equal scores are not called different."""

import random
from collections.abc import Sequence

import pytest

from lorachain.artifacts.ablation import ArmScore, ItemScores
from lorachain.errors import DataError
from lorachain.evaluation.ablation_statistics import summarize_arms
from lorachain.evaluation.statistics import holm

N = 200


def shares(rate: float, seed: int, n: int = N) -> ItemScores:
    rng = random.Random(seed)
    return ItemScores(
        measure="exam",
        kind="share",
        protocol_version="1",
        data_sha256=f"items-{n}",
        unit="questions",
        correct="".join("01"[rng.random() < rate] for _ in range(n)),
    )


def perplexities(shift: float, documents: int = 20) -> ItemScores:
    rng = random.Random(0)
    tokens = tuple(rng.randint(50, 150) for _ in range(documents))
    nll = tuple(count * (3 + rng.random() + shift) for count in tokens)
    return ItemScores(
        measure="perplexity",
        kind="perplexity",
        protocol_version="1",
        data_sha256="documents",
        unit="documents",
        nll=nll,
        tokens=tokens,
    )


def arm(name: str, *seeds: Sequence[ItemScores]) -> list[ArmScore]:
    return [
        ArmScore(arm=name, seed=seed, fingerprint="f", adapter_sha256="a", stages=(), scores=tuple(scores), seconds=1.0)
        for seed, scores in enumerate(seeds)
    ]


def summarize(**arms: list[ArmScore]) -> dict[str, dict[str, object]]:
    summary = summarize_arms(arms, {name: name for name in arms})
    return {entry.arm: {cell.measure: cell for cell in entry.cells} for entry in summary}


def test_a_planted_difference_is_found_with_its_sign() -> None:
    table = summarize(
        chain=arm("chain", [shares(0.6, 1), perplexities(0.0)], [shares(0.6, 2), perplexities(0.0)]),
        worse=arm("worse", [shares(0.3, 3), perplexities(0.2)], [shares(0.3, 4), perplexities(0.2)]),
        better=arm("better", [shares(0.9, 5), perplexities(-0.2)], [shares(0.9, 6), perplexities(-0.2)]),
    )
    for name, sign in (("worse", -1), ("better", 1)):
        for measure, direction in (("exam", 1), ("perplexity", -1)):
            test = table[name][measure].against_chain  # type: ignore[attr-defined]
            assert test.verdict == name
            assert sign * direction * test.difference > 0
            assert test.interval95[0] <= test.difference <= test.interval95[1]
            assert not test.interval95[0] < 0 < test.interval95[1]
            assert test.p_holm < 0.01


def test_the_same_scores_are_not_different() -> None:
    table = summarize(
        chain=arm("chain", [shares(0.6, 1), perplexities(0.0)]), same=arm("same", [shares(0.6, 1), perplexities(0.0)])
    )
    for cell in table["same"].values():
        test = cell.against_chain  # type: ignore[attr-defined]
        assert (test.difference, test.interval95, test.p) == (0.0, (0.0, 0.0), 1.0)
        assert test.verdict == "not significantly different"


def test_chance_is_called_different_in_at_most_about_one_of_twenty_tables() -> None:
    false = 0
    for seed in range(60):
        table = summarize(chain=arm("chain", [shares(0.5, 2 * seed)]), other=arm("other", [shares(0.5, 2 * seed + 1)]))
        false += table["other"]["exam"].against_chain.verdict != "not significantly different"  # type: ignore[attr-defined]
    assert false <= 8  # 3 expected; more than 8 have a probability of 0.3 %


def test_values_are_means_over_seeds_and_tests_are_by_seed_too() -> None:
    chain = arm("chain", [shares(0.6, 1)], [shares(0.6, 2)])
    other = arm("other", [shares(0.4, 3)], [shares(0.4, 4)])
    cell = summarize(chain=chain, other=other)["other"]["exam"]
    rates = [str(score.scores[0].correct).count("1") / N for score in other]
    assert cell.by_seed == pytest.approx(rates)  # type: ignore[attr-defined]
    assert cell.value == pytest.approx(sum(rates) / 2)  # type: ignore[attr-defined]
    for number, test in enumerate(cell.against_chain.by_seed):  # type: ignore[attr-defined]
        pairs = list(zip(str(chain[number].scores[0].correct), str(other[number].scores[0].correct), strict=True))
        assert (test.lost, test.gained) == (pairs.count(("1", "0")), pairs.count(("0", "1")))


def test_perplexity_is_weighted_by_tokens() -> None:
    items = ItemScores(
        measure="perplexity", kind="perplexity", protocol_version="1", data_sha256="d", unit="documents",
        nll=(0.0, 300.0), tokens=(100, 300),
    )  # fmt: skip
    cell = summarize(chain=arm("chain", [items]))["chain"]["perplexity"]
    assert cell.value == pytest.approx(2.718281828**0.75)  # type: ignore[attr-defined]
    assert cell.against_chain is None  # type: ignore[attr-defined]


def test_scores_of_different_items_are_refused() -> None:
    with pytest.raises(DataError, match="different items"):
        summarize(chain=arm("chain", [shares(0.5, 1)]), other=arm("other", [shares(0.5, 1, n=100)]))


def test_one_item_has_no_interval_and_no_test() -> None:
    table = summarize(chain=arm("chain", [shares(1.0, 1, n=1)]), other=arm("other", [shares(0.0, 1, n=1)]))
    assert table["other"]["exam"].interval95 is None  # type: ignore[attr-defined]
    assert table["other"]["exam"].against_chain.p == 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.01], [0.01]),
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.001, 0.001], [0.002, 0.002]),
    ],
)
def test_holm(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
