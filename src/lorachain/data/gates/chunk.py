"""Everything about a chunk of records that does not depend on the others: computed in any process."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorachain.data.gates.contamination import Contamination, Match
from lorachain.data.gates.near_duplicates import Signatures, signatures
from lorachain.data.gates.personal import Finding, PersonalData
from lorachain.data.gates.quality import measure
from lorachain.data.gates.skeleton import Grams, Positions, grams, skeletons
from lorachain.records import ExamQuestion

Fields = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records, each as its fields of text."""

    fields: list[Fields]
    questions: list[ExamQuestion] | None = None
    """The records, where they are exam questions: fields are stem, options, and reasoning if there is some."""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What was found in N records."""

    matches: list[Match]
    findings: list[tuple[tuple[Finding, ...], ...]]
    """By record and field."""
    exact: list[int]
    """64-bit hashes of the complete texts."""
    signatures: Signatures
    """(N, 128), or (0, 128) where no near duplicates are searched for."""
    gram_counts: Positions
    """(N,)"""
    quality: NDArray[np.float64]
    """(N, 4)"""


class ChunkScreen:
    """Screens chunks.

    Args:
        personal: None where personal data are not searched for.
        near: whether signatures are computed.
    """

    def __init__(self, contamination: Contamination, personal: PersonalData | None, *, near: bool) -> None:
        self._contamination = contamination
        self._personal = personal
        self._near = near

    def screen(self, chunk: Chunk) -> ChunkResult:
        texts = ["\n".join(fields) for fields in chunk.fields]
        batch = grams(skeletons(texts))
        find = self._personal.find if self._personal is not None else lambda text: []
        return ChunkResult(
            matches=self._matches(chunk, texts, batch),
            findings=[tuple(tuple(find(field)) for field in fields) for fields in chunk.fields],
            exact=[int.from_bytes(hashlib.blake2b(_bytes(text), digest_size=8).digest()) for text in texts],
            signatures=signatures(batch) if self._near else np.zeros((0, 128), np.uint32),
            gram_counts=np.diff(batch.starts),
            quality=measure(texts, batch),
        )

    def _matches(self, chunk: Chunk, texts: Sequence[str], batch: Grams) -> list[Match]:
        if chunk.questions is None:
            return self._contamination.in_texts(texts, batch)
        asked = ["\n".join(fields[:6]) for fields in chunk.fields]
        reasoning = ["\n".join(fields[6:]) for fields in chunk.fields]
        return [
            *self._contamination.same_questions(chunk.questions, grams(skeletons(asked))),
            *self._contamination.in_texts(reasoning, grams(skeletons(reasoning))),
        ]


def record_hash(fields: Fields) -> str:
    """What reports call a record: the first 16 digits of the SHA-256 of its fields."""
    return hashlib.sha256(_bytes("\n".join(fields))).hexdigest()[:16]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
