"""The ledger as tables for the terminal: the matrix, every significant change, and the gates."""

from collections.abc import Iterator

from rich.table import Table

from lorachain.artifacts import Cell, Change, DialReport, Ledger
from lorachain.artifacts.ledger import Reference, measure_label
from lorachain.report.tables import NOT_MEASURED, escape

_MARKS = {"better": " ▲", "worse": " ▼", "within noise": " ~"}


def ledger_table(ledger: Ledger, steps: list[str], notes: dict[str, str]) -> Table:
    """A row per measure, a column per step.

    Args:
        steps: all steps of the chain, in order.
        notes: by step, what is to be said of its column ("stopped").
    """
    table = Table("measure", title=escape(f"{ledger.model}: what every step scores"))
    for name in steps:
        table.add_column(escape(name + (f"\n({notes[name]})" if name in notes else "")), justify="right")
    table.add_column("noise", justify="right")
    rows = {step.name: step for step in ledger.steps}
    for measure in ledger_measures(ledger):
        cells = [rows[name].cell(measure) if name in rows else None for name in steps]
        noise = ledger.noise.get(measure)
        kind = next(cell.kind for cell in cells if cell is not None)
        table.add_row(
            escape(measure_label(measure)),
            *(_cell_text(cell) for cell in cells),
            _number(noise.value, kind) if noise else NOT_MEASURED,
        )
        if measure in ("exam_letters", "dictionary_exam_letters"):
            table.add_row(escape("  letters chosen, A to E"), *(_letters(cell) for cell in cells), "")
    table.caption = (
        "accuracies in %, with their 95 % interval and n in ledger.json. Against the parent step: ▲ better, ▼ worse\n"
        "(p < 0.05 after Holm's correction over the step's measures), ~ a difference within the noise.\n"
        "noise: items of the base scored again in batches of another shape (share of items whose result changed)"
    )
    return table


def dial_table(report: DialReport, ledger: Ledger) -> Table:
    """A row per measure, a column per scale: the adapter as it was trained first, the base last."""
    rows = {f"{point.scale:g}": point.row for point in report.points}
    trained, base = ledger.step(report.stage), ledger.step("base")
    columns = {**({"1 (trained)": trained} if trained else {}), **rows, **({"base": base} if base else {})}
    title = f"{ledger.model}: stage {report.stage} at several scales ({report.variant})"
    table = Table("measure", title=escape(title))
    for name in columns:
        table.add_column(escape(name), justify="right")
    measures: dict[str, None] = {}
    for row in columns.values():
        measures |= dict.fromkeys(cell.measure for cell in row.cells if cell.measure != "intruder_dimensions")
    for measure in measures:
        cells = [row.cell(measure) for row in columns.values()]
        table.add_row(escape(measure_label(measure)), *(_cell_text(cell, "base") for cell in cells))
    outcomes = {f"{point.scale:g}": "pass" if point.passes else "fail" for point in report.points}
    if trained and trained.gates:
        outcomes["1 (trained)"] = "pass" if all(gate.outcome == "passed" for gate in trained.gates) else "fail"
    table.add_section()
    table.add_row("gates", *(outcomes.get(name, NOT_MEASURED) for name in columns))
    table.caption = "against the base: ▲ better, ▼ worse (p < 0.05 after Holm's correction), ~ within the noise"
    return table


def change_table(ledger: Ledger) -> Table:
    """Every significant change, against the parent and against the base."""
    table = Table("step", "measure", "against", "change", "p (Holm)", "lost, gained", title="significant changes")
    for step in ledger.steps:
        for cell in step.cells:
            for reference, change in cell.against.items():
                if reference == "base" and step.parent == "base" and "parent" in cell.against:
                    continue  # the same comparison
                if change.verdict in ("better", "worse"):
                    other = str(step.parent) if reference == "parent" else "base"
                    table.add_row(
                        escape(step.name), escape(measure_label(cell.measure)), escape(other), *_change(cell, change)
                    )
    return table


def gate_table(ledger: Ledger) -> Table:
    """What the gates of each step decided."""
    table = Table("step", "result", "gate", title="gates")
    for step in ledger.steps:
        for gate in step.gates:
            table.add_row(escape(step.name), escape(gate.outcome), escape(gate.summary))
    return table


def has_changes(ledger: Ledger) -> bool:
    return any(change.verdict in ("better", "worse") for change in _all_changes(ledger))


def missing_steps(ledger: Ledger, there: list[str]) -> list[str]:
    """The steps that are there and have no row, or one that lacks measures that another step has."""
    wanted = set(ledger_measures(ledger)) - {"intruder_dimensions"}
    rows = {step.name: step for step in ledger.steps}
    return [name for name in there if name not in rows or wanted - {cell.measure for cell in rows[name].cells}]


def ledger_measures(ledger: Ledger) -> list[str]:
    """In the order of the longest row's, then whatever only others have."""
    names: dict[str, None] = {}
    for step in sorted(ledger.steps, key=lambda step: -len(step.cells)):
        names |= dict.fromkeys(cell.measure for cell in step.cells)
    return list(names)


def _all_changes(ledger: Ledger) -> Iterator[Change]:
    for step in ledger.steps:
        for cell in step.cells:
            yield from cell.against.values()


def _cell_text(cell: Cell | None, reference: Reference = "parent") -> str:
    if cell is None:
        return NOT_MEASURED
    change = cell.against.get(reference)
    return _number(cell.value, cell.kind) + (_MARKS.get(change.verdict, "") if change else "")


def _number(value: float, kind: str) -> str:
    if kind == "share":
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if kind == "perplexity" else f"{value:.3f}"


def _letters(cell: Cell | None) -> str:
    counts = cell.detail.get("chosen_letters") if cell else None
    return " ".join(str(count) for count in counts.values()) if isinstance(counts, dict) else NOT_MEASURED


def _change(cell: Cell, change: Change) -> tuple[str, str, str]:
    low, high = change.interval95
    flips = "" if change.lost is None else f"{change.lost}, {change.gained} of {cell.n}"
    if cell.kind == "share":
        text = f"{100 * change.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    else:
        text = f"{change.difference:+.2f} [{low:+.2f}, {high:+.2f}], n={cell.n}"
    return text, f"{change.p_holm:.3g}", flips
