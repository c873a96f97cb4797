"""What is in a workbook (.xlsx, .ods), found by reading through its XML once, before a library builds its tables.

A library fills a table from the first to the last cell, and copies a text into every cell that shows it: a file of a
few kilobytes can ask for terabytes. Here nothing is kept but counts. The same pass finds what a table of values does
not show: merged cells, formulas that were never computed, and errors.
"""

import posixpath
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from lorachain.data.text_file import open_file
from lorachain.errors import DataError

MAX_UNCOMPRESSED_BYTES = 256 * 2**20
MAX_CELLS = 4_000_000
"""Of one table, from the first to the last cell that has a value."""
MAX_CHARACTERS = 256 * 2**20
"""Of all cells of a workbook, a text counted in each cell that shows it."""
MAX_COLUMNS = 16_384
MAX_ROWS = 2**20
_CHUNK_BYTES = 2**18
_NOT_XML = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".emf", ".wmf", ".bin", ".rdf", ".svm")
_ODS_VALUES = {"value", "string-value", "date-value", "boolean-value", "time-value"}
_REFERENCE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")


class Merged(NamedTuple):
    """A merged range of cells: first and last row and column, from 1."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        return f"{column_name(self.left)}{self.top}:{column_name(self.right)}{self.bottom}"


@dataclass
class SheetFacts:
    """What one sheet contains; rows and columns from 1."""

    rows: int = 0
    """The last row that has a value."""
    columns: int = 0
    merged: list[Merged] = field(default_factory=list)
    uncomputed: dict[int, int] = field(default_factory=dict)
    """Row to column of a formula that has no stored value."""
    errors: dict[int, int] = field(default_factory=dict)
    """Row to column of an error such as #REF!."""

    def add(self, row: int, column: int) -> None:
        self.rows = max(self.rows, row)
        self.columns = max(self.columns, column)


def column_name(number: int) -> str:
    """1 as A, 28 as AB."""
    name = ""
    while number:
        number, letter = divmod(number - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def scan_workbook(path: Path) -> dict[str, SheetFacts]:
    """The sheets of a workbook by name.

    Raises:
        DataError: it is not a workbook, is damaged or encrypted, or exceeds a limit.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            _check_size(path, archive)
            scan = _scan_ods if path.suffix.casefold() == ".ods" else _scan_xlsx
            facts = scan(path, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, OSError) as error:
        raise DataError(
            f"{path}: not a workbook that can be read ({error}): damaged, encrypted with a password, or an old .xls "
            "with another suffix. Open it and save it as .xlsx without a password, or as .csv."
        ) from None
    for name, sheet in facts.items():
        _check_area(path, name, sheet)
    return facts


def _check_area(path: Path, name: str, sheet: SheetFacts) -> None:
    if sheet.columns > MAX_COLUMNS or sheet.rows > MAX_ROWS or sheet.rows * sheet.columns > MAX_CELLS:
        raise DataError(
            f"{path}: the sheet {name!r} reaches to {column_name(sheet.columns)}{sheet.rows}, which are "
            f"{sheet.rows * sheet.columns:,} cells; at most {MAX_CELLS:,} are read. Delete what is far from the table, "
            "or save it as .csv."
        )


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """The stated sizes; that they are the real ones is checked as each part is read."""
    total = sum(part.file_size for part in archive.infolist())
    if total > MAX_UNCOMPRESSED_BYTES:
        raise DataError(
            f"{path}: the workbook has {total / 2**20:,.0f} MiB uncompressed; at most "
            f"{MAX_UNCOMPRESSED_BYTES // 2**20} MiB are read. Save it as .csv, which is read line by line."
        )
    names = [part.filename for part in archive.infolist()]
    if len({name.casefold() for name in names}) != len(names):
        raise zipfile.BadZipFile("two parts of one name")


class _Handler:
    """Called for each element by its name without prefix, with its attributes without prefixes."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...
    def end(self, name: str) -> None: ...
    def text(self, data: str) -> None: ...


def _parse(path: Path, archive: zipfile.ZipFile, part: str, handler: _Handler) -> None:
    """Reads a part to its end, so that its checksum is verified and its size is the stated one.

    Raises:
        DataError: it is not well-formed XML.
    """
    parser = expat.ParserCreate("UTF-8")  # whatever the part says: the library reads no other encoding
    parser.buffer_text = True

    def local(name: str) -> str:
        return name.rpartition(":")[2]

    def start(name: str, attributes: dict[str, str]) -> None:
        handler.start(local(name), {local(key): value for key, value in attributes.items()})

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda name: handler.end(local(name))
    parser.CharacterDataHandler = handler.text
    try:
        with archive.open(part) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{path}: the part {part} of the workbook is not valid XML ({error}). Save it again.") from None


# ---- .xlsx (ECMA-376) -----------------------------------------------------------------------------------------------


class _Relations(_Handler):
    def __init__(self) -> None:
        self.targets: dict[str, str] = {}
        self.sheets: list[tuple[str, str]] = []
        """Name and relation of each sheet."""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship":
            self.targets[attributes.get("Id", "")] = attributes.get("Target", "")
        elif name == "sheet":
            self.sheets.append((attributes.get("name", ""), attributes.get("id", "")))


class _SharedStrings(_Handler):
    def __init__(self) -> None:
        self.lengths: list[int] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "si":
            self.lengths.append(0)

    def text(self, data: str) -> None:
        if self.lengths:
            self.lengths[-1] += len(data)


class _Budget:
    """Characters of all cells so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._characters = 0

    def take(self, characters: int) -> None:
        self._characters += characters
        if self._characters > MAX_CHARACTERS:
            raise DataError(
                f"{self._path}: the texts of its cells have more than {MAX_CHARACTERS // 2**20} Mi characters in all. "
                "Save it as .csv, which is read line by line."
            )


class _XlsxSheet(_Handler):
    """Any part of the file: one that is no sheet has no cells."""

    def __init__(self, strings: list[int], budget: _Budget) -> None:
        self.facts = SheetFacts()
        self._strings, self._budget = strings, budget
        self._row = self._column = 0
        self._type = ""
        self._formula = self._has_value = self._in_value = False
        self._value: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c":
            self._cell(attributes)
        elif name == "row":
            self._row = _number(attributes.get("r"), self._row + 1)
            self._column = 0
        elif name in ("v", "t"):
            self._in_value, self._value = True, []
        elif name == "f":
            self._formula = True
        elif name == "mergeCell":
            self._merge(attributes.get("ref", ""))

    def _cell(self, attributes: dict[str, str]) -> None:
        self._column += 1
        if match := _REFERENCE.fullmatch(attributes.get("r", "")):
            self._column, self._row = _column_number(match[1]), int(match[2])
        self._type = attributes.get("t", "")
        self._formula = self._has_value = False

    def _merge(self, reference: str) -> None:
        corners = [_REFERENCE.fullmatch(corner) for corner in reference.split(":")]
        if len(corners) == 2 and corners[0] and corners[1]:
            (left, top), (right, bottom) = ((_column_number(c[1]), int(c[2])) for c in corners if c)
            self.facts.merged.append(Merged(top, left, bottom, right))

    def text(self, data: str) -> None:
        if self._in_value:
            self._value.append(data)

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            value = "".join(self._value)
            self._in_value = False
            self._has_value |= bool(value)
            index = _number(value.strip(), -1) if self._type == "s" else -1
            self._budget.take(self._strings[index] if 0 <= index < len(self._strings) else len(value))
        elif name == "c" and (self._has_value or self._formula):
            self.facts.add(self._row, self._column)
            if self._formula and not self._has_value:
                self.facts.uncomputed.setdefault(self._row, self._column)
            if self._type == "e":
                self.facts.errors.setdefault(self._row, self._column)


def _scan_xlsx(path: Path, archive: zipfile.ZipFile) -> dict[str, SheetFacts]:
    """Every part is read as if it were a sheet, since any part can be named as one."""
    relations, strings, budget = _Relations(), _SharedStrings(), _Budget(path)
    names = archive.namelist()
    for name in names:
        folded = name.casefold()
        if folded.endswith("sharedstrings.xml"):
            _parse(path, archive, name, strings)
        elif folded in ("xl/workbook.xml", "xl/_rels/workbook.xml.rels"):
            _parse(path, archive, name, relations)
    facts: dict[str, SheetFacts] = {}
    for name in names:
        if not name.endswith("/") and not name.casefold().endswith(_NOT_XML):
            sheet = _XlsxSheet(strings.lengths, budget)
            _parse(path, archive, name, sheet)
            facts[name.casefold()] = sheet.facts
            sheet.facts = SheetFacts()
    by_sheet = {}
    for title, relation in relations.sheets:
        target = relations.targets.get(relation, "")
        part = target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join("xl", target))
        if part.casefold() not in facts:
            raise zipfile.BadZipFile(f"the sheet {title!r} is not in the file")
        by_sheet[title] = facts[part.casefold()]
    if not by_sheet:
        raise zipfile.BadZipFile("no sheet")
    for name, contents in facts.items():  # whatever is named as a sheet by other means
        _check_area(path, name, contents)
    return by_sheet


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default


def _column_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


# ---- .ods (OpenDocument 1.3) ----------------------------------------------------------------------------------------


class _OdsContent(_Handler):
    def __init__(self, budget: _Budget) -> None:
        self.sheets: dict[str, SheetFacts] = {}
        self._facts = SheetFacts()
        self._budget = budget
        self._row = self._row_repeats = self._column = self._repeats = 0
        self._in_cell = self._has_value = self._formula = False
        self._spans = (1, 1)
        self._characters = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "table":
            self._facts = self.sheets.setdefault(attributes.get("name", ""), SheetFacts())
            self._row = self._row_repeats = 0
        elif name == "table-row":
            self._row += self._row_repeats
            self._row_repeats = max(_number(attributes.get("number-rows-repeated"), 1), 1)
            self._column = self._repeats = 0
        elif name in ("table-cell", "covered-table-cell"):
            self._cell(attributes)
        elif self._in_cell:
            self._has_value = True

    def _cell(self, attributes: dict[str, str]) -> None:
        self._column += self._repeats
        self._repeats = max(_number(attributes.get("number-columns-repeated"), 1), 1)
        self._in_cell = True
        self._formula = "formula" in attributes
        self._has_value = "value-type" in attributes or self._formula
        self._spans = (
            _number(attributes.get("number-rows-spanned"), 1),
            _number(attributes.get("number-columns-spanned"), 1),
        )
        self._characters = sum(map(len, attributes.values()))
        row, column = self._row + 1, self._column + 1
        if self._spans > (1, 1):
            self._facts.merged.append(Merged(row, column, row + self._spans[0] - 1, column + self._spans[1] - 1))
        if self._formula and attributes.get("value-type") != "string" and not attributes.keys() & _ODS_VALUES:
            self._facts.uncomputed.setdefault(row, column)
        if attributes.get("value-type") == "error":
            self._facts.errors.setdefault(row, column)

    def text(self, data: str) -> None:
        if self._in_cell:
            self._characters += len(data)

    def end(self, name: str) -> None:
        if name in ("table-cell", "covered-table-cell") and self._in_cell:
            self._in_cell = False
            if self._has_value:
                self._facts.add(self._row + self._row_repeats, self._column + self._repeats)
                self._budget.take(self._characters * self._repeats * self._row_repeats)


def _scan_ods(path: Path, archive: zipfile.ZipFile) -> dict[str, SheetFacts]:
    content = _OdsContent(_Budget(path))
    _parse(path, archive, "content.xml", content)
    if not content.sheets:
        raise zipfile.BadZipFile("no sheet")
    return content.sheets
