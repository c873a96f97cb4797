"""Reads `samples.parquet` of written reasoning. Imports no torch."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file

SAMPLES = "samples.parquet"


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
