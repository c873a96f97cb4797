"""What an interrupted pass over data has done: results of its first chunks, signed with a key of the user's account.

They lie in a workspace that may come from a stranger, who could write that nothing was found. Lines that this user did
not sign, that belong to other records or settings, or that were cut off, end what is used again.
"""

import base64
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from lorachain.append_file import append_line
from lorachain.artifacts.data_gates import ScreenedChunk
from lorachain.atomic import open_regular
from lorachain.data.gates.chunk import Chunk, ChunkResult, ChunkScreen
from lorachain.data.gates.contamination import Match
from lorachain.data.gates.near_duplicates import SLOTS
from lorachain.data.gates.personal import Finding
from lorachain.data.gates.quality import MEASURES
from lorachain.data.gates.workers import screened
from lorachain.errors import WorkspaceError
from lorachain.user_key import is_signed, signature

_HEADER = '{"journal":"of the data gates"}'
_UNSIGNED = ""


class ScreenJournal:
    """The journal at `path`.

    Args:
        identity: everything that decides the results besides the records.
    """

    def __init__(self, path: Path, identity: object) -> None:
        self._path = path
        self._identity = identity

    def screened(
        self, chunks: Iterable[Chunk], screen: ChunkScreen, processes: int
    ) -> Iterator[tuple[Chunk, ChunkResult]]:
        """Each chunk with its result, from the journal where it has it.

        Raises:
            WorkspaceError: the journal cannot be written, or is a link. RuntimeError: a worker ended.
        """
        remaining = iter(chunks)
        following = next(remaining, None)
        kept = len(_HEADER) + 1
        for line in self._lines():
            result = self._result(line, following)
            if following is None or result is None:
                break
            kept += len(line)
            yield following, result
            following = next(remaining, None)
        if os.path.lexists(self._path) and self._path.stat().st_size > kept:
            os.truncate(self._path, kept)
        rest = chain([following], remaining) if following is not None else iter(())
        for chunk, result in screened(rest, screen, processes):
            self._append(chunk, result)
            yield chunk, result

    def remove(self) -> None:
        """Ends the pass: the next one begins at the first chunk."""
        self._path.unlink(missing_ok=True)

    def _lines(self) -> Iterator[bytes]:
        """The complete lines behind the header. Raises WorkspaceError where the file is somebody's own."""
        if not os.path.lexists(self._path):
            return
        with os.fdopen(open_regular(self._path, os.O_RDONLY), "rb") as file:
            header, expected = file.readline(), f"{_HEADER}\n".encode()
            if not expected.startswith(header):
                raise WorkspaceError(
                    f"{self._path} is not a journal of lorachain, which would replace it: move or rename it"
                )
            if header != expected:  # the first write was cut off
                self.remove()
                return
            yield from (line for line in file if line.endswith(b"\n"))

    def _result(self, line: bytes, chunk: Chunk | None) -> ChunkResult | None:
        """What a line says of `chunk`; None where it is another's, or damaged."""
        try:
            stored = ScreenedChunk.model_validate_json(line)
            if chunk is None or stored.chunk != _chunk_hash(chunk):
                return None
            return _result_of(stored) if is_signed(self._signed(stored), stored.signature) else None
        except (ValidationError, ValueError, WorkspaceError):
            return None

    def _append(self, chunk: Chunk, result: ChunkResult) -> None:
        line = _line_of(chunk, result)
        try:
            line = line.model_copy(update={"signature": signature(self._signed(line))})
        except WorkspaceError:  # no key: the next start begins at the first chunk
            return
        append_line(self._path, line.model_dump_json(), header=_HEADER)

    def _signed(self, line: ScreenedChunk) -> dict[str, Any]:
        return {
            "kind": "screened",
            "of": self._identity,
            "code": _code_sha256(),
            **line.model_dump(mode="json", exclude={"signature"}),
        }


@functools.cache
def _code_sha256() -> str:
    """Of the modules that decide the results."""
    data = package_files("lorachain").joinpath("data")
    modules = sorted(data.joinpath("gates").iterdir(), key=lambda file: file.name)
    digest = hashlib.sha256()
    for file in (*modules, data.joinpath("decontamination.py"), data.joinpath("normalization.py")):
        if file.name.endswith(".py"):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _chunk_hash(chunk: Chunk) -> str:
    digest = hashlib.sha256()
    for fields in chunk.fields:
        for field in fields:
            content = field.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8) + content)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()


def _line_of(chunk: Chunk, result: ChunkResult) -> ScreenedChunk:
    return ScreenedChunk(
        chunk=_chunk_hash(chunk),
        matches=tuple((m.text, m.questions, m.question, m.kind, m.share) for m in result.matches),
        findings=tuple(
            tuple(tuple((found.kind, found.start, found.end) for found in field) for field in fields)
            for fields in result.findings
        ),
        exact=tuple(result.exact),
        signatures=base64.b64encode(result.signatures.astype("<u4").tobytes()).decode("ascii"),
        gram_counts=tuple(result.gram_counts.tolist()),
        quality=base64.b64encode(result.quality.astype("<f8").tobytes()).decode("ascii"),
        signature=_UNSIGNED,
    )


def _result_of(stored: ScreenedChunk) -> ChunkResult:
    """Raises ValueError where the arrays do not have the shape of a result."""
    return ChunkResult(
        matches=[Match(*match) for match in stored.matches],
        findings=[tuple(tuple(Finding(*found) for found in field) for field in fields) for fields in stored.findings],
        exact=list(stored.exact),
        signatures=np.frombuffer(base64.b64decode(stored.signatures), "<u4").reshape(-1, SLOTS).astype(np.uint32),
        gram_counts=np.array(stored.gram_counts, dtype=np.int64),
        quality=np.frombuffer(base64.b64decode(stored.quality), "<f8").reshape(-1, len(MEASURES)).astype(np.float64),
    )
