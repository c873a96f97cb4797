"""Reads `samples.parquet` of written reasoning. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.data.sources import split_options
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file
from lorachain.workspace import REASONING_REPORT

SAMPLES = "samples.parquet"
EXAM = "exam"
"""The directory of the kept samples beside it, in KorMedMCQA's schema."""


def written_folders(sources: Iterable[str]) -> list[Path]:
    """The directories of written reasoning whose kept samples are among the sources of an exam."""
    places = [Path(split_options(source)[0]).expanduser() for source in sources]
    return [place.parent for place in places if place.name == EXAM and (place.parent / REASONING_REPORT).is_file()]


def no_samples(setting: str, sources: Iterable[str], command: str) -> str:
    """Why a preference cannot be trained; `command` writes samples."""
    return (
        f"{setting} trains accepted samples against wrong ones, but none of the sources ({', '.join(sources)}) is "
        f"written reasoning with accepted samples and its {SAMPLES}. Write some with: {command}; "
        f"or set {setting} to off"
    )


def read_samples(folder: Path, sha256: str) -> list[dict[str, Any]]:
    """Every sample, as records of the columns.

    Raises:
        WorkspaceError: the file is missing, cannot be read, or is not the one with this SHA-256.
    """
    path = folder / SAMPLES
    try:
        if sha256_file(path) != sha256:
            raise WorkspaceError(f"{path} is not the file that its report was written with")
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}") from error
    return rows
