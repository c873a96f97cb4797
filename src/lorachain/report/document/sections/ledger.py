"""The ledger as a heat map, what changed significantly, and what the gates decided."""

from collections.abc import Iterator
from typing import cast

from lorachain.artifacts import Cell as LedgerCell
from lorachain.artifacts import Change, Ledger
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Paragraph, Section, Shade, Table, Text, Words, parts
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words
from lorachain.report.ledger_table import ledger_measures, missing_steps

_MARKS = {"better": " ▲", "worse": " ▼", "within noise": " ~"}


def ledger_section(data: ReportData) -> Section:
    title = Text("Gained and forgotten", "얻은 것과 잊은 것")
    if data.ledger is None:
        return Section(
            "ledger",
            title,
            [
                words.missing(
                    "The ledger has not been measured:", "원장을 측정하지 않았습니다:", data.notes.get("ledger")
                )
            ],
        )
    ledger = data.ledger.ledger
    blocks: list[Block] = [
        Paragraph(
            Text(
                "Every step is scored by the same measures on the same items. Blue ▲: significantly better than the "
                "step "
                "before; orange ▼: significantly worse (p < 0.05 after Holm's correction over the step's measures); ~: "
                "a "
                "difference within the noise of scoring twice. The darker, the larger. Accuracies are in %; of a "
                "perplexity lower is better.",
                "모든 단계를 같은 항목에 같은 방법으로 측정합니다. 파랑 ▲: 앞 단계보다 유의하게 나아짐, 주황 ▼: "
                "유의하게 나빠짐"
                "(단계 안의 측정에 Holm 보정 후 p < 0.05), ~: 두 번 채점할 때의 잡음 범위 안. 짙을수록 차이가 큽니다. "
                "정답률은 "
                "%이며 퍼플렉서티는 낮을수록 좋습니다.",
            ),
            "note",
        ),
        _heat_map(data),
    ]
    if changes := list(_changes(ledger)):
        blocks.append(
            Table(
                Text("Significant changes", "유의한 변화"),
                (
                    Text("step", "단계"),
                    Text("measure", "측정"),
                    Text("against", "비교 대상"),
                    Text("change", "변화"),
                    "p (Holm)",
                ),
                changes,
            )
        )
    else:
        blocks.append(Paragraph(Text("No change is significant.", "유의한 변화가 없습니다.")))
    if gates := list(_gates(ledger)):
        columns = (Text("step", "단계"), Text("result", "판정"), Text("gate", "게이트"))
        blocks.append(Table(Text("Gates", "게이트"), columns, gates))
    if lacking := missing_steps(ledger, data.ledger.there):
        names = ", ".join(lacking)
        blocks.append(words.missing(f"Not measured completely: {names}.", f"모두 측정하지 않은 단계: {names}."))
    return Section("ledger", title, blocks)


def _heat_map(data: ReportData) -> Table:
    view = data.ledger
    if view is None:
        raise ValueError("there is no ledger")
    rows_by_step = {step.name: step for step in view.ledger.steps}
    columns: list[Words] = [Text("measure", "측정")]
    columns += [f"{name} ({view.notes[name]})" if name in view.notes else name for name in view.steps]
    columns.append(Text("noise", "잡음"))
    rows: list[tuple[Words | Cell, ...]] = []
    for measure in ledger_measures(view.ledger):
        cells = [rows_by_step[name].cell(measure) if name in rows_by_step else None for name in view.steps]
        first = next(cell for cell in cells if cell is not None)
        noise = view.ledger.noise.get(measure)
        shown: Words = numbers.NOT_MEASURED
        if noise is not None:
            shown = numbers.percent(noise.value, "") if first.kind == "share" else numbers.decimal(noise.value)
        label: Words = (words.ledger_measure(measure), " (n=", numbers.count(first.n), " ", words.unit(first.unit), ")")
        rows.append((label, *(_heat_cell(cell) for cell in cells), shown))
    return Table(Text("What every step scores", "모든 단계의 측정값"), columns, rows, "heat")


def _heat_cell(cell: LedgerCell | None) -> Cell:
    if cell is None:
        return Cell(numbers.NOT_MEASURED)
    change = cell.against.get("parent")
    value = numbers.ledger_value(cell)
    if change is None:
        return Cell(value)
    return Cell((value, _MARKS.get(change.verdict, "")), shade(cell, change))


def shade(cell: LedgerCell, change: Change) -> Shade:
    """How a change is colored: by its verdict, the stronger the larger it is.

    Of a share by points (2 and 10), of a perplexity by the share of the value before (5 % and 20 %).
    """
    if change.verdict == "within noise":
        return "noise"
    if change.verdict not in ("better", "worse"):
        return "same"
    size, bounds = abs(change.difference), (0.02, 0.1)
    if cell.kind != "share":
        size, bounds = size / max(abs(cell.value - change.difference), 1e-9), (0.05, 0.2)
    level = 1 + sum(size >= bound for bound in bounds)
    return cast(Shade, f"{change.verdict}-{level}")


def _changes(ledger: Ledger) -> Iterator[tuple[Words | Cell, ...]]:
    for step in ledger.steps:
        for cell in step.cells:
            for reference, change in cell.against.items():
                if reference == "base" and step.parent == "base" and "parent" in cell.against:
                    continue  # the same comparison
                if change.verdict in ("better", "worse"):
                    yield (
                        step.name,
                        words.ledger_measure(cell.measure),
                        str(step.parent) if reference == "parent" else "base",
                        (words.verdict(change.verdict), ": ", *parts(numbers.ledger_change(cell, change))),
                        numbers.p_value(change.p_holm),
                    )


def _gates(ledger: Ledger) -> Iterator[tuple[Words | Cell, ...]]:
    for step in ledger.steps:
        for gate in step.gates:
            yield step.name, words.outcome(gate.outcome), gate.summary
