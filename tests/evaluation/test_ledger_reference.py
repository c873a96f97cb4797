"""The ledger's comparisons equal the reference, which draws every bootstrap sample."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorachain.artifacts import Cell, Noise
from lorachain.evaluation.ledger_statistics import changes, measured_noise, perplexity_cell, relative_loss, share_cell
from reference import exam_statistics, ledger

ITEMS = "ab" * 32
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=12)
documents = st.lists(
    st.tuples(st.integers(20, 60), st.integers(20, 60), st.integers(5, 15)), min_size=2, max_size=4
).map(lambda rows: ledger.Documents([float(r[0]) for r in rows], [float(r[1]) for r in rows], [r[2] for r in rows]))


def share(hits: list[bool], measure: str = "exam_letters") -> Cell:
    return share_cell(measure, "1", ITEMS, hits, "questions", note="kept")


def cell_of(sums: list[float], tokens: list[int], measure: str = "korean") -> Cell:
    return perplexity_cell(measure, "1", ITEMS, sums, tokens, note="kept")


@given(pairs)
def test_a_share(drawn: list[tuple[bool, bool]]) -> None:
    hits = [x for x, _ in drawn]
    cell = share(hits)
    assert (cell.value, cell.n, cell.kind, cell.unit) == (sum(hits) / len(hits), len(hits), "share", "questions")
    assert cell.interval95 == pytest.approx(exam_statistics.wilson(sum(hits), len(hits)))
    assert cell.correct == "".join("1" if hit else "0" for hit in hits)
    assert (cell.version, cell.data_sha256, cell.detail) == ("1", ITEMS, {"note": "kept"})


@settings(max_examples=10)
@given(documents)
def test_a_perplexity(drawn: ledger.Documents) -> None:
    cell = cell_of(drawn.before, drawn.tokens)
    assert cell.value == pytest.approx(ledger.perplexity(drawn.before, drawn.tokens))
    assert (cell.n, cell.kind, cell.unit) == (len(drawn.tokens), "perplexity", "documents")
    assert cell.detail == {"tokens": sum(drawn.tokens), "note": "kept"}
    assert (cell.sums, cell.weights) == (tuple(drawn.before), tuple(drawn.tokens))
    draws = exam_statistics.resampled(
        cell.n, lambda draw: ledger.perplexity([drawn.before[i] for i in draw], [drawn.tokens[i] for i in draw])
    )
    assume(len(draws) > 1)
    assert cell.interval95 is not None
    assert exam_statistics.plausible_interval(draws, cell.interval95)


def test_one_document_has_no_interval_and_no_comparison() -> None:
    cell = cell_of([20.0], [10])
    assert cell.interval95 is None
    assert cell.value == pytest.approx(math.exp(2))
    assert changes([cell], [cell_of([30.0], [10])], {}) == {}


@settings(max_examples=30)
@given(pairs)
def test_shares_are_compared_item_by_item(drawn: list[tuple[bool, bool]]) -> None:
    expected = ledger.Shares([x for x, _ in drawn], [y for _, y in drawn])
    change = changes([share(expected.after)], [share(expected.before)], {})["exam_letters"]
    assert change.difference == pytest.approx(expected.difference)
    assert change.test == "exact McNemar"
    assert change.p == pytest.approx(expected.p)
    assert change.lost == sum(x and not y for x, y in drawn)
    assert change.gained == sum(y and not x for x, y in drawn)
    differences = [float(y) - float(x) for x, y in drawn]
    if len(set(differences)) > 1:
        draws = exam_statistics.resampled_mean(differences)
        assert exam_statistics.plausible_interval(draws, change.interval95)


@settings(max_examples=12)
@given(documents)
def test_perplexities_are_compared_document_by_document(expected: ledger.Documents) -> None:
    assume(expected.before != expected.after)
    after, before = cell_of(expected.after, expected.tokens), cell_of(expected.before, expected.tokens)
    change = changes([after], [before], {})["korean"]
    assert change.difference == pytest.approx(expected.difference)
    assert change.test == "paired bootstrap"
    assert (change.lost, change.gained) == (None, None)
    draws = expected.draws()
    if len(draws) > 1:
        assert exam_statistics.plausible_interval(draws, change.interval95)
    # Two tails of 10,000 draws: five standard errors, and one draw that is added to each.
    error = 2 * 5 * math.sqrt(0.25 / 10_000)
    assert change.p == pytest.approx(min(1.0, max(expected.tail, expected.least_p)), abs=error)
    assert expected.least_p <= change.p <= 1.0


@settings(max_examples=15)
@given(st.lists(st.tuples(pairs, st.none() | st.sampled_from([0.0, 0.1, 0.5])), min_size=1, max_size=4))
def test_the_measures_of_a_step_are_corrected_together(
    drawn: list[tuple[list[tuple[bool, bool]], float | None]],
) -> None:
    expected = [ledger.Shares([x for x, _ in hits] * 2, [y for _, y in hits] * 2) for hits, _ in drawn]
    assume(all(sum(x != y for x, y in zip(one.before, one.after, strict=True)) <= 16 for one in expected))
    names = [f"m{i}" for i in range(len(drawn))]
    noises = {
        name: Noise(version="1", data_sha256=ITEMS, value=noise, n=2)
        for name, (_, noise) in zip(names, drawn, strict=True)
        if noise is not None
    }
    after = [share(one.after, name) for name, one in zip(names, expected, strict=True)]
    before = [share(one.before, name) for name, one in zip(names, expected, strict=True)]
    found = changes(after, before[::-1], noises)
    p_values = [one.p for one in expected]
    assert [found[name].p_holm for name in names] == pytest.approx(exam_statistics.holm(p_values))
    assert [found[name].verdict for name in names] == ledger.verdicts(
        [found[name].difference for name in names], p_values, [noise for _, noise in drawn], [True] * len(drawn)
    )


@pytest.mark.parametrize(("worse", "verdict"), [(True, "worse"), (False, "better")])
def test_a_lower_perplexity_is_better(worse: bool, verdict: str) -> None:
    low, high = [20.0 + i for i in range(12)], [22.0 + i for i in range(12)]
    after, before = (high, low) if worse else (low, high)
    assert changes([cell_of(after, [10] * 12)], [cell_of(before, [10] * 12)], {})["korean"].verdict == verdict


@given(pairs, pairs)
def test_noise_of_a_share_is_the_share_of_items_that_changed(
    drawn: list[tuple[bool, bool]], more: list[tuple[bool, bool]]
) -> None:
    first, again = [x for x, _ in drawn], [y for _, y in drawn]
    noise = measured_noise(share(first + [x for x, _ in more]), share(again))
    assert noise.value == pytest.approx(sum(x != y for x, y in drawn) / len(drawn))
    assert noise.n == len(drawn)


@given(documents, st.integers(0, 2))
def test_noise_of_a_perplexity_is_its_difference_on_the_same_documents(drawn: ledger.Documents, more: int) -> None:
    whole = cell_of(drawn.before + [33.0] * more, drawn.tokens + [7] * more)
    noise = measured_noise(whole, cell_of(drawn.after, drawn.tokens))
    assert noise.value == pytest.approx(abs(drawn.difference))


@given(pairs)
def test_a_loss_is_how_much_worse(drawn: list[tuple[bool, bool]]) -> None:
    shares = ledger.Shares([x for x, _ in drawn], [y for _, y in drawn])
    after, before = share(shares.after), share(shares.before)
    assert relative_loss(after, before, "points") == pytest.approx(-100 * shares.difference)
    if before.value:
        assert relative_loss(after, before, "percent") == pytest.approx(-100 * shares.difference / before.value)
