"""Numbers of JSON files as the report shows them, each with the value that it was rounded from."""

import re
from math import isfinite

from lorachain.artifacts import Cell, Change, Measure
from lorachain.artifacts.validation import PairedComparison, Proportion
from lorachain.report.document.blocks import Inline, Number, Text, Words
from lorachain.report.document.sections import words

NOT_MEASURED = "–"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(?:\.\d+)?([+-]\d\d:?\d\d|Z)?")


def count(value: int) -> Number:
    return Number(value, f"{value:,}")


def decimal(value: float, digits: int = 2, unit: str = "") -> Number:
    return Number(value, f"{value:,.{digits}f}{unit}")


def scientific(value: float) -> Number:
    return Number(value, f"{value:.1e}")


def percent(value: float, unit: str = " %") -> Number:
    """A share of 1 in percent."""
    return Number(value, f"{100 * value:.1f}{unit}")


def p_value(value: float) -> Number:
    return Number(value, "p < 0.001" if value < 0.001 else f"p = {value:.3f}")


def interval(low: float, high: float) -> tuple[Inline, ...]:
    """` [47.1, 57.4]`, of shares, in percent."""
    return (" [", percent(low, ""), ", ", percent(high, ""), "]")


def proportion(score: Proportion | None) -> Words:
    """`52.3 % [47.1, 57.4] n=380`."""
    if score is None:
        return NOT_MEASURED
    return (percent(score.accuracy), *interval(*score.wilson95), " n=", count(score.n))


def measure(value: Measure | None) -> Words:
    """A measure's value with its n and, where there is one, its interval."""
    if value is None or value.value is None:
        return NOT_MEASURED
    n: tuple[Inline, ...] = (" n=", count(value.n))
    if value.wilson95 is None:
        return (decimal(value.value), *n, Text(f" {value.unit}", f" {words.unit(value.unit).ko}"))
    return (percent(value.value), *interval(*value.wilson95), *n)


def ledger_value(cell: Cell) -> Number:
    if cell.kind == "share":
        return percent(cell.value, "")
    return decimal(cell.value, 2 if cell.kind == "perplexity" else 3)


def ledger_change(cell: Cell, change: Change) -> Words:
    """`+3.8 points [1.0, 6.6]` of a share; the difference with its interval of anything else."""
    low, high = change.interval95
    if cell.kind == "share":
        parts = [Number(value, f"{100 * value:+.1f}") for value in (change.difference, low, high)]
        return (parts[0], Text(" points", " %p"), " [", parts[1], ", ", parts[2], "]")
    parts = [Number(value, f"{value:+.2f}") for value in (change.difference, low, high)]
    return (parts[0], " [", parts[1], ", ", parts[2], "]")


def when(time: str) -> str:
    """`2026-01-02 03:04 +0900` of `2026-01-02T03:04:05+0900`; anything else as it is."""
    parts = _TIME.fullmatch(time)
    return " ".join(filter(None, parts.groups())) if parts else time


def paired(comparison: PairedComparison) -> Words:
    """Questions gained and lost."""
    return (
        Text("gained ", "새로 맞힘 "),
        count(comparison.gained),
        Text(", lost ", ", 새로 틀림 "),
        count(comparison.lost),
        Text(" of ", " / "),
        count(comparison.n),
    )


def finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
