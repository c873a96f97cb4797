"""How a source is read where its files do not say it: `terms.xlsx#sheet=용어,term=표제어`.

The options follow the source's name after `#`, so that they go wherever the name goes: into the settings, into
`training_info.json`, and into the check whether a source changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import unquote

from lorachain.data.columns import FIELDS
from lorachain.data.encodings import canonical_encoding
from lorachain.data.workbook import WORKBOOK_SUFFIXES
from lorachain.errors import ConfigError, DataError

DELIMITERS = {",": ",", "comma": ",", ";": ";", "semicolon": ";", "tab": "\t", "|": "|", "pipe": "|"}
_DELIMITED = (".csv", ".tsv")
_OF_FILES = {
    "encoding": (".txt", ".jsonl", ".json", *_DELIMITED),
    "delimiter": _DELIMITED,
    "sheet": WORKBOOK_SUFFIXES,
    "header": (*_DELIMITED, *WORKBOOK_SUFFIXES),
}
_ESCAPED = {"%": "%25", ",": "%2C", "=": "%3D", "#": "%23"}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """None: as the files say, or the default."""

    encoding: str | None = None
    """Of text files; the default is UTF-8."""
    delimiter: str | None = None
    """Of .csv; the default is a comma, or a semicolon where the header has no comma."""
    sheet: str | None = None
    """Of a workbook, by name or number (from 1)."""
    header: int | None = None
    """The row of a table that has the names of its columns, from 1; the default is the first that is not blank."""
    split: str | None = None
    """Of a hub data set that is not an exam; the default is `train`."""
    writer: str | None = None
    """Who wrote the reasoning of an exam, where its rows do not say it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field to column."""

    def over(self, defaults: "ReadOptions") -> "ReadOptions":
        """These options, and `defaults` where they say nothing."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "columns"}
        merged = {name: getattr(defaults, name) if value is None else value for name, value in own.items()}
        return ReadOptions(**merged, columns={**defaults.columns, **self.columns})

    def __str__(self) -> str:
        """As they follow the `#`; empty where every option is the default."""
        delimiter = {"\t": "tab", ",": "comma"}.get(self.delimiter or "", self.delimiter)
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("columns", "delimiter")]
        pairs = [*values, ("delimiter", delimiter), *self.columns.items()]
        return ",".join(f"{_escape(key)}={_escape(str(value))}" for key, value in pairs if value is not None)


def check_effect(options: ReadOptions, path: Path) -> None:
    """Refuses an option that says nothing about files of this kind.

    Raises:
        DataError: names the first.
    """
    suffix = path.suffix.casefold()
    for name, suffixes in _OF_FILES.items():
        if getattr(options, name) is not None and suffix not in suffixes:
            raise DataError(
                f"{path}: the option {name} has no effect on {suffix} files, only on {', '.join(suffixes)}. Leave it "
                f"out, or give it after the source that it is for, such as terms{suffixes[0]}#{name}=..."
            )


def columns_of(text: str) -> dict[str, str]:
    """`term=용어,definition=뜻`, as `--columns` gives it; a comma or `=` in a name is written `%2C` or `%3D`.

    Raises:
        ConfigError: it is not pairs of a field and a column.
    """
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        field, equals, column = (unquote(piece.strip()) for piece in part.partition("="))
        if not equals or not field or not column:
            raise ConfigError(f"--columns has {part.strip()!r}; give FIELD=COLUMN, such as term=용어,definition=뜻")
        if field in columns:
            raise ConfigError(f"--columns names the field {field} twice")
        columns[field] = column
    return columns


def parse_options(text: str, name: str) -> ReadOptions:
    """The options after the `#` of the source `name`.

    Raises:
        DataError: an option is unknown, twice there, or has a value that is not allowed.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (unquote(piece.strip()) for piece in part.partition("="))
        if not equals or not key or not value:
            raise DataError(f"{name}: the option {part.strip()!r} is not KEY=VALUE, such as encoding=cp949")
        if key in values:
            raise DataError(f"{name}: the option {key} is given twice")
        values[key] = value
    return options_of(values, name)


def options_of(values: Mapping[str, str], name: str) -> ReadOptions:
    """Options from texts by name; every name that is not an option's is a field's, with its column.

    Args:
        name: what they are options of, for messages.

    Raises:
        DataError: as `parse_options`.
    """
    own = {f.name for f in fields(ReadOptions)} - {"columns"}
    known = {field for kind in FIELDS.values() for field in kind}
    columns = {key: value for key, value in values.items() if key not in own}
    if unknown := next((key for key in columns if key not in known), None):
        raise DataError(
            f"{name}: unknown option {unknown!r}; allowed: {', '.join(sorted(own))}, and the fields "
            f"{', '.join(sorted(known))} with the column of each"
        )
    delimiter = values.get("delimiter")
    if delimiter is not None and delimiter not in DELIMITERS:
        raise DataError(f"{name}: delimiter is {delimiter!r}; allowed: {', '.join(DELIMITERS)}")
    header = values.get("header")
    if header is not None and not (header.isascii() and header.isdigit() and 0 < int(header) <= 2**20):
        raise DataError(f"{name}: header is {header!r}; give the number of the row with the column names, from 1")
    encoding = values.get("encoding")
    return ReadOptions(
        encoding=None if encoding is None else canonical_encoding(encoding, name),
        delimiter=None if delimiter is None else DELIMITERS[delimiter],
        sheet=values.get("sheet"),
        header=None if header is None else int(header),
        split=values.get("split"),
        writer=values.get("writer"),
        columns=columns,
    )


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)
