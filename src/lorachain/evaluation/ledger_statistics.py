"""Values, intervals and paired tests of the ledger's cells. Imports no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lorachain.artifacts.ledger import Cell, Change, Noise, Verdict
from lorachain.evaluation.statistics import (
    RESAMPLES,
    SIGNIFICANCE,
    discordant,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    resampled_statistic,
    wilson,
)
from lorachain.prompts import PROMPT_VERSION


def share_cell(measure: str, version: str, data_sha256: str, correct: Sequence[bool], unit: str, **detail: Any) -> Cell:
    """A share of right answers with its Wilson interval."""
    return Cell(
        measure=measure,
        kind="share",
        version=version,
        prompt_version=PROMPT_VERSION,
        data_sha256=data_sha256,
        value=sum(correct) / len(correct),
        n=len(correct),
        unit=unit,
        interval95=wilson(sum(correct), len(correct)),
        correct="".join("01"[hit] for hit in correct),
        detail=detail,
    )


def perplexity_cell(
    measure: str, version: str, data_sha256: str, sums: Sequence[float], weights: Sequence[int], **detail: Any
) -> Cell:
    """A perplexity over documents, with a bootstrap interval over the documents where there are two or more.

    Args:
        sums: negative log-likelihood of each document in nats.
        weights: tokens of each document.
    """
    interval = None
    if len(sums) > 1:
        interval = resampled_statistic(lambda nll, tokens, axis: _perplexity(nll, tokens, axis), (sums, weights))[1]
    return Cell(
        measure=measure,
        kind="perplexity",
        version=version,
        prompt_version=PROMPT_VERSION,
        data_sha256=data_sha256,
        value=float(_perplexity(np.asarray(sums), np.asarray(weights), 0)),
        n=len(sums),
        unit="documents",
        interval95=interval,
        sums=tuple(sums),
        weights=tuple(weights),
        detail={"tokens": sum(weights), **detail},
    )


def comparable(cell: Cell, other: Cell | None) -> bool:
    """Whether the two have the same items, scored in the same way, and enough of them for a test."""
    return (
        other is not None
        and cell.kind != "description"
        and cell.n > 1
        and (cell.kind, cell.version, cell.prompt_version, cell.data_sha256, cell.n)
        == (other.kind, other.version, other.prompt_version, other.data_sha256, other.n)
    )


def changes(cells: Sequence[Cell], others: Sequence[Cell], noise: dict[str, Noise]) -> dict[str, Change]:
    """By measure, each of `cells` against the same measure of another step, where the two are comparable.

    Two-sided: exact McNemar for shares, paired bootstrap over documents for perplexities; of n documents its p is at
    least 2^(1-n), the chance that all n differences have one sign. The p-values of all measures are corrected together
    by Holm's step-down method (Holm 1979), so that the chance of one false change among them is at most 5 %. A
    difference not larger than the measure's noise is called no change, whatever its p.
    """
    by_measure = {other.measure: other for other in others}
    pairs = [(cell, by_measure[cell.measure]) for cell in cells if comparable(cell, by_measure.get(cell.measure))]
    tested = [_tested(cell, other) for cell, other in pairs]
    adjusted = holm([change["p"] for change in tested])
    return {
        cell.measure: Change(
            **change, p_holm=p_holm, verdict=_verdict(cell, change["difference"], p_holm, noise.get(cell.measure))
        )
        for (cell, _), change, p_holm in zip(pairs, tested, adjusted, strict=True)
    }


def measured_noise(cell: Cell, again: Cell) -> Noise:
    """What changed when the first items of a cell were scored again by the same model.

    Raises:
        ValueError: `again` is not a scoring of the cell's first items.
    """
    n = again.n
    same_tokens = again.weights == (cell.weights[:n] if cell.weights is not None else None)
    if cell.kind != again.kind or cell.version != again.version or n > cell.n or not same_tokens:
        raise ValueError(f"{cell.measure}: the two scorings have different items")
    if cell.kind == "share":
        value = sum(a != b for a, b in zip(str(cell.correct)[:n], str(again.correct), strict=True)) / n
    else:
        sums, weights = np.asarray(cell.sums)[:n], np.asarray(again.weights)
        value = abs(float(_perplexity(sums, weights, 0)) - again.value)
    return Noise(
        version=again.version,
        prompt_version=again.prompt_version,
        data_sha256=again.data_sha256,
        value=value,
        n=n,
    )


def relative_loss(cell: Cell, other: Cell, unit: str) -> float:
    """How much worse `cell` is than `other`, negative where it is better.

    In `points`: percentage points of a share, or the difference of two perplexities; in `percent`: of the other's
    value.
    """
    loss = other.value - cell.value if cell.kind == "share" else cell.value - other.value
    if unit == "points":
        return 100 * loss if cell.kind == "share" else loss
    return 100 * loss / other.value if other.value else 0.0


def _tested(cell: Cell, other: Cell) -> dict[str, Any]:
    if cell.kind == "share":
        before, after = (_hits(one) for one in (other, cell))
        lost, gained = discordant(before, after)
        # scipy's bootstrap of identical values warns of a degenerate distribution.
        interval = paired_bootstrap(before, after) if lost or gained else (0.0, 0.0)
        return {
            "difference": (gained - lost) / cell.n,
            "interval95": interval,
            "test": "exact McNemar",
            "p": mcnemar_exact(lost, gained),
            "lost": lost,
            "gained": gained,
        }
    if cell.sums == other.sums:
        return {"difference": 0.0, "interval95": (0.0, 0.0), "test": "paired bootstrap", "p": 1.0}

    def difference(after: Any, before: Any, tokens: Any, axis: int) -> Any:
        return _perplexity(after, tokens, axis) - _perplexity(before, tokens, axis)

    resampled, interval = resampled_statistic(difference, (cell.sums, other.sums, cell.weights))
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = max(2 * (tail + 1) / (RESAMPLES + 1), 2.0 ** (1 - cell.n))
    return {
        "difference": cell.value - other.value,
        "interval95": interval,
        "test": "paired bootstrap",
        "p": min(1.0, p),
    }


def _verdict(cell: Cell, difference: float, p_holm: float, noise: Noise | None) -> Verdict:
    if difference and noise is not None and abs(difference) <= noise.value:
        return "within noise"
    if p_holm >= SIGNIFICANCE:
        return "not significantly different"
    return "better" if (difference > 0) == (cell.kind == "share") else "worse"


def _hits(cell: Cell) -> list[bool]:
    return [hit == "1" for hit in str(cell.correct)]


def _perplexity(nll: Any, tokens: Any, axis: int) -> Any:
    return np.exp(nll.sum(axis=axis) / tokens.sum(axis=axis))
