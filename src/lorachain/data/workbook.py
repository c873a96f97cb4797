"""Rows of workbooks (.xlsx, .ods) with the calamine library, after `workbook_scan` found that they are harmless."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lorachain.data.normalization import normalize_name
from lorachain.data.rows import RawRow, Tally, header_problem
from lorachain.data.workbook_scan import Merged, SheetFacts, column_name, scan_workbook
from lorachain.errors import DataError

WORKBOOK_SUFFIXES = (".xlsx", ".ods")
_ESCAPED = re.compile(r"_x000[dD]_")


def read_workbook(path: Path, tally: Tally, *, sheet: str | None, header: int | None) -> Iterator[RawRow]:
    """The rows of one sheet below its header, with the values that the program stored: of a formula its last result.

    Whole numbers are `int`. Dates and times stay what they are, so that a field of text refuses them.

    Args:
        sheet: its name, or its number from 1; None where only one sheet has values.
        header: the row with the names of the columns, from 1; None: the first that is not blank.

    Raises:
        DataError: the file cannot be read (see `scan_workbook`), the sheet is not clear, or the header is not one name
            per column.
    """
    sheets = scan_workbook(path)
    name = _sheet_name(path, sheets, sheet)
    facts = sheets[name]
    label = f"{path}:{name} row" if len(sheets) > 1 else f"{path}:row"
    yield from _rows(path, label, _values(path, name) if facts.rows else iter(()), facts, tally, header)


def _values(path: Path, sheet: str) -> Iterator[tuple[int, Sequence[object]]]:
    """Number, from 1, and values of each row of a sheet. Raises DataError where the library cannot read it."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_path(path) as workbook:
            yield from enumerate(workbook.get_sheet_by_name(sheet).iter_rows(), start=1)
    except BaseException as error:
        if not isinstance(error, CalamineError | OSError | ValueError | OverflowError) and not _is_panic(error):
            raise
        raise DataError(
            f"{path}: the workbook cannot be read ({error}). Open it and save it as .xlsx, or as .csv."
        ) from None


def _is_panic(error: BaseException) -> bool:
    """Whether the library's Rust code gave up, which pyo3 raises as an exception that is no `Exception`."""
    return type(error).__name__ == "PanicException"


def _sheet_name(path: Path, sheets: Mapping[str, SheetFacts], wanted: str | None) -> str:
    names = list(sheets)
    if wanted is not None:
        for name in names:
            if normalize_name(name) == normalize_name(wanted):
                return name
        if wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(names):
            return names[int(wanted) - 1]
        raise DataError(f"{path}: no sheet {wanted!r}; its sheets are {', '.join(names[:20])}.")
    filled = [name for name, facts in sheets.items() if facts.rows]
    if not filled:
        raise DataError(f"{path}: no sheet has a cell with a value.")
    if len(filled) > 1:
        raise DataError(
            f"{path}: {len(filled)} sheets have values ({', '.join(filled[:20])}), and which one is not given. Give it "
            f"with --sheet {filled[0]}, or as {path.name}#sheet={filled[0]}."
        )
    return filled[0]


def _rows(
    path: Path,
    label: str,
    rows: Iterator[tuple[int, Sequence[object]]],
    facts: SheetFacts,
    tally: Tally,
    header: int | None,
) -> Iterator[RawRow]:
    names: list[str] | None = None
    unsure = False
    """Whether what was taken for the header may be a title."""
    merged = _MergedRows(facts.merged)
    for number, values in rows:
        where = f"{label} {number}"
        cells = [_value(value) for value in values]
        covering = merged.covering(number)
        if names is None:
            if number < (header or 0) or (header is None and all(cell is None for cell in cells)):
                continue
            names = _header(where, cells, merged.across(number))
            unsure = header is None and sum(map(bool, names)) == 1
        elif all(cell is None for cell in cells):
            continue
        elif unsure and sum(cell is not None for cell in cells) > 2:
            raise DataError(
                f"{where}: more values than the header above it has names ({next(filter(None, names))!r} only), which "
                f"may be a title. Give the row of the names: {path.name}#header={number}, or "
                f"#header={number - 1} if it is none."
            )
        elif covering is not None:
            tally.refuse(
                where, "a value in each cell of its own", f"the merged cells {covering}: split them and fill each in"
            )
        elif number in facts.uncomputed:
            cell = f"{column_name(facts.uncomputed[number])}{number}"
            tally.refuse(
                where,
                "values",
                f"a formula in {cell} without its result: save the file in Excel or LibreOffice",
            )
        elif number in facts.errors:
            tally.refuse(where, "values", f"an error in {column_name(facts.errors[number])}{number}, such as #REF!")
        else:
            yield RawRow(where, number, dict(zip(names, cells, strict=False)))


def _header(where: str, cells: list[object], across: Merged | None) -> list[str]:
    """Raises DataError: nothing can be read without it, even where bad rows are skipped."""
    names = ["" if cell is None else str(cell) for cell in cells]
    problem = header_problem(names)
    if problem is None and across is not None:
        problem = f"the merged cells {across}"
    if problem is not None:
        raise DataError(
            f"{where}: expected one name per column (the header), found {problem}. Correct it, or give the row of the "
            "names, such as book.xlsx#header=2."
        )
    return names


def _value(value: object) -> object:
    if isinstance(value, str):
        return _ESCAPED.sub("\n", value) if value else None
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return int(value)
        return float(f"{value:.15g}")  # what the program shows: 0.1 + 0.2 is 0.3
    return value


class _MergedRows:
    """Which merged cells leave cells of a row empty; rows are queried in ascending order."""

    def __init__(self, merged: list[Merged]) -> None:
        # The first row of cells merged downwards has their value.
        starts = ((m.top if m.right > m.left else m.top + 1, m) for m in merged)
        self._coming = sorted(((start, m) for start, m in starts if start <= m.bottom), reverse=True)
        self._current: Merged | None = None

    def covering(self, row: int) -> Merged | None:
        while self._coming and self._coming[-1][0] <= row:
            _, merged = self._coming.pop()
            if self._current is None or merged.bottom > self._current.bottom:
                self._current = merged
        return self._current if self._current is not None and self._current.bottom >= row else None

    def across(self, row: int) -> Merged | None:
        """What `covering` found for the row that was queried last."""
        return self._current if self._current is not None and self._current.bottom >= row else None
