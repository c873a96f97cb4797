"""A data report as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from lorachain.artifacts.data_gates import DataReport
from lorachain.report.tables import escape

_SHOWN = 20


def data_tables(report: DataReport) -> list[Table]:
    """What the gates found, gate by gate, and the first places; never what was found."""
    summary = Table(title=escape(f"{', '.join(report.sources)}: {report.records:,} records"))
    for column in ("gate", "found", "action", "records left out or masked"):
        summary.add_column(column)
    found = report.contamination
    sets = ", ".join(f"{n:,} of {name}" for name, n in found.questions.items()) or "no questions: name an --exam"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.kinds.items())
    text = (
        f"{len(found.found):,} questions in {found.records:,} records{f' ({kinds})' if kinds else ''}; searched: {sets}"
    )
    summary.add_row("contamination", escape(text), found.action, f"{found.removed:,}")
    if (duplicates := report.duplicates) is not None:
        text = f"{duplicates.exact:,} exact, {duplicates.near:,} near; {duplicates.across_files:,} across files"
        summary.add_row("duplicates", text, duplicates.action, f"{duplicates.removed:,}")
    personal = report.personal
    text = ", ".join(f"{n:,} {kind}" for kind, n in personal.kinds.items()) or "none"
    summary.add_row(
        "personal data", f"{text}; in {personal.records:,} records", personal.action, f"{personal.masked:,}"
    )
    return [summary, *_quality(report), *_places(report)]


def _quality(report: DataReport) -> Sequence[Table]:
    if not report.quality:
        return []
    table = Table(title="quality")
    names = list(next(iter(report.quality.values())).quantiles)
    for column in ("measure", *names, "limit", "left out", "suggested limit", "would leave out"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name, measure in report.quality.items():
        table.add_row(
            name,
            *(f"{value:,.4g}" for value in measure.quantiles.values()),
            f"{measure.limit:g}",
            f"{measure.removed:,}",
            f"{measure.suggested:g}",
            f"{measure.suggested_would_remove:,}",
        )
    return [table]


def _places(report: DataReport) -> Sequence[Table]:
    rows = [
        *((match.where, f"{match.kind} {match.share:.0%}: {match.question}") for match in report.contamination.matches),
        *((finding.where, f"{finding.kind}, character {finding.start + 1}") for finding in report.personal.findings),
    ]
    if not rows:
        return []
    table = Table(
        title=f"the first {min(_SHOWN, len(rows))} of {len(rows):,} places" if len(rows) > _SHOWN else "places"
    )
    table.add_column("where")
    table.add_column("what")
    for where, what in rows[:_SHOWN]:
        table.add_row(escape(where), escape(what))
    return [table]
