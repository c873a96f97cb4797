"""Values, intervals and paired tests of the ledger, against textbook examples and other computations."""

import math
import random

import pytest
from scipy.stats import binomtest

from lorachain.artifacts import Cell, Noise
from lorachain.evaluation.ledger_statistics import (
    changes,
    comparable,
    measured_noise,
    perplexity_cell,
    relative_loss,
    share_cell,
)
from lorachain.evaluation.statistics import holm

ITEMS = "ab" * 32


def share(text: str, measure: str = "exam_letters", items: str = ITEMS) -> Cell:
    return share_cell(measure, "1", items, [character == "1" for character in text], "questions")


def perplexity(losses: list[float], tokens: int = 10, measure: str = "korean") -> Cell:
    """Documents of equal length with these mean losses in nats."""
    return perplexity_cell(measure, "1", ITEMS, [loss * tokens for loss in losses], [tokens] * len(losses))


def test_holm_gives_the_published_example() -> None:
    """Wikipedia's and R's: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_a_share_is_compared_question_by_question() -> None:
    before, after = share("1" * 30 + "0" * 20), share("0" * 20 + "1" * 10 + "1" * 2 + "0" * 18)
    change = changes([after], [before], {})["exam_letters"]
    assert (change.lost, change.gained) == (20, 2)
    assert change.difference == pytest.approx(-18 / 50)
    assert change.p == change.p_holm == pytest.approx(binomtest(20, 22, 0.5).pvalue)
    assert change.verdict == "worse"
    low, high = change.interval95
    assert low < change.difference < high < 0
    assert changes([before], [after], {})["exam_letters"].verdict == "better"


def test_the_more_tests_the_less_is_significant() -> None:
    before, after = share("1" * 10), share("0" * 7 + "1" * 3)
    alone = changes([after], [before], {})["exam_letters"]
    assert alone.verdict == "worse"
    others = [share("1100110011", measure=f"other{i}") for i in range(9)]
    among = changes([after, *others], [before, *others], {})["exam_letters"]
    assert among.p == alone.p
    assert among.p_holm == pytest.approx(10 * alone.p)
    assert among.verdict == "not significantly different"


def test_perplexity_is_compared_document_by_document() -> None:
    rng = random.Random(0)
    losses = [rng.uniform(1, 5) for _ in range(40)]
    before, worse = perplexity(losses), perplexity([loss + rng.uniform(0.0, 0.2) for loss in losses])
    assert before.value == pytest.approx(math.exp(sum(losses) / 40))
    low, high = before.interval95 or (0.0, 0.0)
    assert low < before.value < high
    change = changes([worse], [before], {})["korean"]
    assert change.verdict == "worse"
    assert change.p == pytest.approx(2 / 10_001)  # no draw of 10,000 has the other sign
    assert change.test == "paired bootstrap"
    assert (change.lost, change.gained) == (None, None)
    # Paired: the documents differ far more among each other than between the two models.
    assert change.interval95[0] > 0
    assert worse.value < high
    shuffled = perplexity([loss + rng.uniform(-0.1, 0.1) for loss in losses])
    assert changes([shuffled], [before], {})["korean"].p > 0.01


def test_few_documents_are_never_significant() -> None:
    for n in (2, 3, 5):
        change = changes([perplexity([3.0 + i for i in range(n)])], [perplexity([1.0 + i for i in range(n)])], {})
        assert change["korean"].p == 2.0 ** (1 - n)
        assert change["korean"].verdict == "not significantly different"


def test_the_same_scores_are_no_change() -> None:
    for cell in (share("1010"), perplexity([1.0, 2.0, 3.0])):
        change = changes([cell], [cell], {})[cell.measure]
        assert (change.difference, change.p, change.interval95) == (0, 1, (0, 0))
        assert change.verdict == "not significantly different"


def test_a_difference_within_the_noise_is_no_change() -> None:
    before, after = share("1" * 100), share("0" * 10 + "1" * 90)
    noise = {"exam_letters": Noise(version="1", data_sha256=ITEMS, value=0.1, n=20)}
    assert changes([after], [before], {})["exam_letters"].verdict == "worse"
    assert changes([after], [before], noise)["exam_letters"].verdict == "within noise"


def test_noise_is_what_changes_when_the_same_is_scored_again() -> None:
    assert measured_noise(share("1100"), share("1010")).value == 0.5  # though the share is the same
    noise = measured_noise(perplexity([1.0, 2.0]), perplexity([1.0, 2.1]))
    assert noise.value == pytest.approx(math.exp(1.55) - math.exp(1.5))
    first = measured_noise(share("110011"), share("100", items="cd" * 32))  # its first three, scored again
    assert first.value == pytest.approx(1 / 3)
    assert (first.n, first.data_sha256) == (3, "cd" * 32)
    for cell, again in ((share("11"), share("111")), (perplexity([1.0]), perplexity([1.0], tokens=9))):
        with pytest.raises(ValueError, match="different items"):
            measured_noise(cell, again)


def test_only_the_same_items_are_compared() -> None:
    cell = share("1100")
    assert comparable(cell, share("0011"))
    assert not comparable(cell, None)
    assert not comparable(cell, share("0011", items="cd" * 32))
    assert not comparable(cell, share("0011").model_copy(update={"version": "2"}))
    assert not comparable(cell, share("0011").model_copy(update={"prompt_version": 2}))
    assert not comparable(share("1"), share("0"))
    assert changes([cell], [share("0011", items="cd" * 32)], {}) == {}


def test_losses_in_points_and_per_cent() -> None:
    assert relative_loss(share("1000"), share("1100"), "points") == pytest.approx(25)
    assert relative_loss(share("1000"), share("1100"), "percent") == pytest.approx(50)
    assert relative_loss(share("1100"), share("1000"), "points") == pytest.approx(-25)
    after, before = perplexity([math.log(12)]), perplexity([math.log(10)])
    assert relative_loss(after, before, "points") == pytest.approx(2)
    assert relative_loss(after, before, "percent") == pytest.approx(20)
    assert relative_loss(share("1"), share("0"), "percent") == 0
