"""The table of an ablation."""

from rich.table import Table

from lorachain.artifacts.ablation import Ablation, AblationCell
from lorachain.report.tables import NOT_MEASURED, escape


def ablation_table(result: Ablation) -> Table:
    """One row per measure and arm, narrow enough for 100 columns."""
    title = f"{result.model}: {len(result.arms)} arms, {result.budget:,} supervised tokens each, seeds "
    table = Table(
        "measure",
        "arm",
        "value",
        "by seed",
        "against the chain",
        title=escape(title + ", ".join(map(str, result.seeds))),
    )
    measures = list(dict.fromkeys(cell.measure for arm in result.arms for cell in arm.cells))
    for measure in measures:
        rows = [(arm, cell) for arm in result.arms for cell in arm.cells if cell.measure == measure]
        for number, (arm, cell) in enumerate(rows):
            table.add_row(
                f"{escape(measure)}\nn = {cell.n:,} {cell.unit}" if number == 0 else "",
                escape(arm.arm),
                _value_text(cell),
                "" if arm.arm == "base" else " ".join(_number(cell, value) for value in cell.by_seed),
                _against_text(cell),
                end_section=number == len(rows) - 1,
            )
    table.caption = (
        "95 % intervals: bootstrap over the items, seeds averaged within each; p: sign flips of the paired "
        "differences, corrected by Holm's method over the table; "
        f"split {result.split}"
    )
    return table


def _is_share(cell: AblationCell) -> bool:
    return cell.unit != "documents"


def _number(cell: AblationCell, value: float) -> str:
    return f"{100 * value:.1f}" if _is_share(cell) else f"{value:.2f}"


def _value_text(cell: AblationCell) -> str:
    unit = " %" if _is_share(cell) else ""
    interval = cell.interval95
    shown = f" [{_number(cell, interval[0])}, {_number(cell, interval[1])}]" if interval else ""
    return f"{_number(cell, cell.value)}{unit}{shown}"


def _against_text(cell: AblationCell) -> str:
    test = cell.against_chain
    if test is None:
        return NOT_MEASURED
    scale, digits, unit = (100, 1, " points") if _is_share(cell) else (1, 2, "")
    low, high = (f"{scale * bound:+.{digits}f}" for bound in test.interval95)
    p = "p < 0.001" if test.p_holm < 0.001 else f"p = {test.p_holm:.3f}"
    return f"{scale * test.difference:+.{digits}f}{unit} [{low}, {high}], {test.verdict} ({p})"
