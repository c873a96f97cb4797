"""What every reader does to text before anything else sees it, so that equal words are equal strings.

Files disagree on how to write the same text: macOS decomposes Hangul, Windows ends lines with `\\r\\n`, editors add
byte order marks, pandas and databases write missing values as text. Fields, headers, file names and exam names all
pass through here; `NORMALIZATION_VERSION` belongs to everything that depends on what was read.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping

NORMALIZATION_VERSION = 1
"""Raised with every change to what this module returns: results of different versions are not comparable."""

ZERO_WIDTH = ("\u200b", "\u2060", "\ufeff")
"""Zero-width space, word joiner and byte order mark: removed wherever they occur. The zero-width joiner and non-joiner
(U+200D, U+200C) stay: they change how Persian, Indic scripts and emoji are read."""

NULL_MARKERS = frozenset(
    {"nan", "NaN", "<NA>", "None", "null", "NULL", "(null)", r"\N", "N/A", "n/a", "#N/A"}
)  # fmt: skip
"""A field that consists of one of these, in exactly this spelling, is absent. Medical words that look alike are no
markers: NA (noradrenaline), Na (sodium), NAN (neonatal alloimmune neutropenia), nil, none, 없음."""

OPTION_NULL_MARKERS = NULL_MARKERS - {"None", "N/A", "n/a"}
"""The same for the options of a question, where "None" and "N/A" are possible answers."""

MAX_MARKS = 30
"""Combining marks in a row that still are a letter (Unicode's Stream-Safe Text Format, UAX #15)."""

_INDEX_COLUMN = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")
_NESTING = 3
"""Levels of lists and objects that are normalized; no field has more."""


def normalize_text(text: str) -> str:
    """NFC, line ends as `\\n`, no zero-width characters. Applying it twice changes nothing more."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        return text
    for character in ZERO_WIDTH:
        text = text.replace(character, "")
    if unicodedata.is_normalized("NFC", text):
        return text
    # Sorting a run of marks takes time quadratic in its length, and no language has such runs: they stay as they are.
    pieces = _long_mark_run().split(text)
    return "".join(piece if i % 2 else unicodedata.normalize("NFC", piece) for i, piece in enumerate(pieces))


def normalize_name(name: str) -> str:
    """A column, subject, exam or file name: normalized text without outer space. Bytes of a file name that are not
    UTF-8 become `?`, so that every name can be written."""
    return normalize_text(name).encode("utf-8", "replace").decode().strip()


def normalize_row(row: Mapping[str, object]) -> dict[str, object]:
    """Names and values of a row, normalized; unnamed index columns (as pandas writes them) are left out.

    Of two columns whose names become equal the first that has a value counts.
    """
    normalized: dict[str, object] = {}
    for key, value in row.items():
        name = normalize_name(str(key))
        if not _INDEX_COLUMN.fullmatch(name) and normalized.get(name) is None:
            normalized[name] = normalize_value(value)
    return normalized


def normalize_value(value: object, nesting: int = _NESTING) -> object:
    """A field's text, or the texts within its lists and objects; everything else unchanged."""
    if isinstance(value, str):
        return normalize_text(value)
    if nesting and isinstance(value, list | tuple):
        return [normalize_value(item, nesting - 1) for item in value]
    if nesting and isinstance(value, dict):
        return {normalize_name(str(key)): normalize_value(item, nesting - 1) for key, item in value.items()}
    return value


def whole_number(text: str) -> str:
    """`3.0` as `3`: a table with a missing value stores its whole numbers as floats. Other text is unchanged."""
    match = _WHOLE_NUMBER.fullmatch(text)
    return match[1] if match else text


def limit_marks(text: str) -> str:
    """Text that any Unicode normalization takes in linear time: runs of marks are sorted already, or cut."""
    if unicodedata.is_normalized("NFC", text):
        return text
    return _long_mark_run().sub(lambda run: run[0][:MAX_MARKS], text)


@functools.cache
def _long_mark_run() -> re.Pattern[str]:
    """More than `MAX_MARKS` combining marks in a row. No mark lies beyond the planes searched."""
    marks = "".join(map(re.escape, filter(unicodedata.combining, map(chr, range(0x300, 0x20000)))))
    return re.compile(rf"([{marks}]{{{MAX_MARKS + 1},}})")
