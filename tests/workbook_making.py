"""Small workbooks, written in the test process with the libraries that people write them with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Table = Sequence[Sequence[Any]]


def write_workbook(path: Path, sheets: Mapping[str, Table]) -> Path:
    """A .xlsx or .ods with these sheets; None is an empty cell."""
    if path.suffix == ".ods":
        _write_ods(path, sheets)
    else:
        import openpyxl

        workbook = openpyxl.Workbook()
        workbook.remove(workbook.active)
        for name, rows in sheets.items():
            sheet = workbook.create_sheet(name)
            for row in rows:
                sheet.append(list(row))
        workbook.save(path)
    return path


def _write_ods(path: Path, sheets: Mapping[str, Table]) -> None:
    from odf.opendocument import OpenDocumentSpreadsheet
    from odf.table import Table as OdfTable
    from odf.table import TableCell, TableRow
    from odf.text import P

    document = OpenDocumentSpreadsheet()
    for name, rows in sheets.items():
        table = OdfTable(name=name)
        for row in rows:
            odf_row = TableRow()
            for value in row:
                odf_row.addElement(_cell(value, TableCell, P))
            table.addElement(odf_row)
        document.spreadsheet.addElement(table)
    document.save(str(path))


def _cell(value: Any, cell_type: Any, paragraph: Any) -> Any:
    if value is None:
        return cell_type()
    number = isinstance(value, int | float)
    cell = cell_type(valuetype="float", value=value) if number else cell_type(valuetype="string")
    cell.addElement(paragraph(text=str(value)))
    return cell
