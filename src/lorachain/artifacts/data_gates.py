"""`data_report.json`: what the data gates found in a source; and files of questions that are known by hashes only."""

import base64
import binascii
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from lorachain.artifacts.schema import Artifact, Record
from lorachain.data_settings import PersonalKind

MOST_LISTED = 10_000
"""Records that a report lists of each kind; more are counted."""


class MatchedRecord(Record):
    """A record in which a held-out question was found."""

    record: int
    """Its number in the order of reading, from 1."""
    where: str
    """File and line, or the hub's row, where the reader knows it."""
    sha256: str
    """The first 16 digits, of the record's text."""
    questions: str
    """The set of the question, such as `dev`."""
    question: str
    kind: Literal["verbatim", "containment", "reworded"]
    share: float
    """Of the stem's n-grams."""
    removed: bool


class ContaminationReport(Record):
    action: Literal["remove", "refuse", "report"]
    threshold: float
    questions: dict[str, int]
    """By set, how many were searched for."""
    records: int
    removed: int
    kinds: dict[str, int]
    """By kind of match, records."""
    touched: tuple[str, ...]
    """Questions that are in records which were kept, so that they are trained on."""
    found: tuple[str, ...]
    """Questions that were in any record, sorted."""
    matches: tuple[MatchedRecord, ...]
    not_listed: int


class DuplicateRecord(Record):
    record: int
    where: str
    sha256: str
    of: int
    """The earlier record."""
    similarity: float
    """1.0: the same text; below, estimated."""


class DuplicatesReport(Record):
    action: Literal["remove", "refuse", "report"]
    similarity: float
    exact: int
    near: int
    across_files: int
    """Of both, those whose earlier record is in another file."""
    removed: int
    duplicates: tuple[DuplicateRecord, ...]
    not_listed: int


class PersonalFinding(Record):
    """Where personal data is. What it is, is not written: the hash has a salt that is not kept, so that it only shows
    that two findings of one report are equal."""

    kind: str
    record: int
    where: str
    field: int
    start: int
    """Characters from the beginning of the field."""
    salted_hash: str


class PersonalReport(Record):
    action: Literal["refuse", "mask", "report", "off"]
    records: int
    masked: int
    """Records."""
    kinds: dict[str, int]
    """By kind, findings."""
    findings: tuple[PersonalFinding, ...]
    not_listed: int


class QualityMeasure(Record):
    """One measure of the records."""

    quantiles: dict[str, float]
    """5, 25, 50, 75 and 95 %, of a sample of at most 10,000 records."""
    limit: float
    removed: int
    suggested: float
    suggested_would_remove: int


class DataReport(Artifact):
    """What the gates found in the sources of one kind."""

    title: ClassVar[str] = "data report"
    remedy: ClassVar[str] = "run `lorachain data check` or the stage again"

    kind: Literal["plain_text", "dictionary", "exam", "instruct"]
    sources: tuple[str, ...]
    records: int
    characters: int
    kept: int
    contamination: ContaminationReport
    duplicates: DuplicatesReport | None
    """None for dictionaries and exams, whose readers drop equal records and where similar ones are meant."""
    personal: PersonalReport
    quality: dict[str, QualityMeasure]
    """Empty but for plain text."""


class ScreenedChunk(Record):
    """A line of the journal of a pass over data: what was found in a chunk of records, arrays as base64."""

    chunk: str
    """SHA-256 of the chunk."""
    matches: tuple[tuple[int, str, str, Literal["verbatim", "containment", "reworded"], float], ...]
    """Text, set, question, kind, share."""
    findings: tuple[tuple[tuple[tuple[PersonalKind, int, int], ...], ...], ...]
    """By record and field: kind, start, end."""
    exact: tuple[int, ...]
    signatures: str
    gram_counts: tuple[int, ...]
    quality: str
    signature: str
    """HMAC-SHA-256 of the fields above and of what decides them, with a key of the user's account (`user_key`)."""


class HashedQuestion(Record):
    """A question as salted hashes of its n-grams: base64 of 64-bit numbers, least significant byte first."""

    id: str
    """A hash too."""
    stem: str
    options: tuple[str, str, str, str, str]
    whole_options: str
    answer: int = Field(ge=0, le=4)
    stem_length: int = Field(ge=0)
    length: int = Field(ge=0)

    @field_validator("stem", "whole_options", "options")
    @classmethod
    def _is_base64(cls, value: Any) -> Any:
        for text in [value] if isinstance(value, str) else value:
            try:
                if len(base64.b64decode(text, validate=True)) % 8:
                    raise ValueError("not a whole number of 64-bit hashes")
            except binascii.Error as error:
                raise ValueError(f"not base64: {error}") from error
        return value


class HashedExam(Artifact):
    """A file of `lorachain data hash-exam`."""

    title: ClassVar[str] = "file of hashed questions"
    remedy: ClassVar[str] = "write it again with `lorachain data hash-exam`"

    name: str
    salt: str = Field(pattern="^[0-9a-f]{16}$")
    skeleton_version: int
    gram: int
    questions: tuple[HashedQuestion, ...]
