"""Encodings of text files: UTF-8 unless the user names another, which is never guessed."""

import codecs
from pathlib import Path

from lorachain.data.text_file import open_file
from lorachain.errors import DataError

ENCODINGS = {
    "utf-8": ("utf-8", "utf8", "utf-8-sig"),
    "cp949": ("cp949", "ms949", "uhc", "windows-949"),
    "euc-kr": ("euc-kr", "euckr", "euc_kr", "ksc5601", "ks_c_5601-1987"),
    "utf-16": ("utf-16", "utf16"),
}
"""By the name that is recorded, the names that are understood. CP949 is EUC-KR with further syllables."""
_LEGACY = ("cp949", "euc-kr")
_HEAD_BYTES = 2**18


def canonical_encoding(given: str, name: str) -> str:
    """Raises DataError for an encoding that is not read."""
    folded = given.strip().casefold()
    for encoding, names in ENCODINGS.items():
        if folded in names:
            return encoding
    raise DataError(f"{name}: encoding is {given!r}; allowed: {', '.join(ENCODINGS)}")


def likely_encoding(path: Path) -> str | None:
    """The encoding that the beginning of a file that is not UTF-8 is probably in, for a message; None where none of
    `ENCODINGS` is likely."""
    from charset_normalizer import from_bytes

    try:
        with open_file(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    head = head[: head.rfind(b"\n") + 1] or head  # whole lines only: a cut character is no evidence
    best = from_bytes(head, cp_isolation=["cp949", "euc_kr"], threshold=0.5).best()
    return None if best is None else "cp949"


def refuse_utf8(path: Path, encoding: str) -> None:
    """Refuses to read a file as CP949 that is UTF-8: its bytes would mostly be read, as other letters.

    Raises:
        DataError: the file begins with text in UTF-8 that is not ASCII.
    """
    if encoding not in _LEGACY:
        return
    with open_file(path) as file:
        head = file.read(_HEAD_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return
    if not text.isascii():
        raise DataError(f"{path}: the file is UTF-8, and {encoding} is given for it. Leave the encoding out.")
