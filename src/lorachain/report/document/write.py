"""Writes a report, in place of an earlier one only."""

from pathlib import Path
from typing import Literal

from lorachain.atomic import atomic_write_text
from lorachain.errors import ConfigError
from lorachain.report.document.blocks import Document, Language
from lorachain.report.document.html import GENERATOR, render_html
from lorachain.report.document.markdown import MARK, render_markdown

Format = Literal["html", "md"]
_HEAD = 4096
"""Bytes in which a report names itself."""


def check_report_file(out: Path) -> None:
    """Refuses a file that is no report, before any work is done.

    Raises:
        ConfigError: there is something else at `out`, or its directory is missing.
    """
    if not out.absolute().parent.is_dir():
        raise ConfigError(
            f"--out {out}: the directory {out.absolute().parent} is missing; create it, or choose another"
        )
    if out.is_symlink() or (out.exists() and not (out.is_file() and _is_report(out))):
        raise ConfigError(f"--out {out} exists and is not a report of lorachain; choose another name or remove it")


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return MARK.encode() in head or f'name="generator" content="{GENERATOR}"'.encode() in head


def write_report(document: Document, out: Path, form: Format, language: Language) -> None:
    """Raises WorkspaceError where the disk is full or the file cannot be written."""
    text = render_html(document, language) if form == "html" else render_markdown(document, language)
    atomic_write_text(out, text)
