"""Written reasoning: `reasoning_report.json`, and the journal of a writing run in progress."""

from typing import Any, ClassVar, Literal

from lorachain.artifacts.schema import Artifact, PromptedInputs, Record
from lorachain.artifacts.stages import SourceRecord


class WriterIdentity(Record):
    """Which engine and model wrote."""

    engine: str
    version: str
    model: str
    weights_sha256: str | None
    """None where a server does not show its weights."""


class ReasoningInputs(PromptedInputs):
    """Everything that decides what is written and kept, apart from the number of samples."""

    writer: WriterIdentity
    scorer_sha256: str
    """Of the base and adapter that score the support of an answer."""
    questions: str
    held_out: str
    examples: str
    dictionary: str
    """All four: SHA-256 over what was read."""
    settings: dict[str, Any]
    answer_style: Literal["letters", "options"]
    seed: int


class Funnel(Record):
    """How many samples were drawn, and what became of them."""

    questions: int
    questions_kept: int
    drawn: int
    hinted: int
    """Of the drawn, with the right answer as a hint."""
    rejected: dict[str, int]
    """By the first check that a sample failed; in the order of the checks."""
    failed: dict[str, int]
    """By every check that a sample failed, whether or not it failed an earlier one. Checks that ask a model are made
    for samples with the right answer only."""
    kept: int
    tokens: int
    """Generated for the samples."""


class ReasoningReport(Artifact):
    """`reasoning_report.json`: the funnel of written reasoning. Every sample is in `samples.parquet` beside it."""

    title: ClassVar[str] = "reasoning report"
    remedy: ClassVar[str] = "write the reasoning again with `lorachain write-reasoning`"

    depends_on: ReasoningInputs
    depends_on_sha256: str
    by_parent: bool
    """Whether the stage before wrote it, as a run of the chain does; otherwise a writer that the user named."""
    samples_per_question: int
    checks: dict[str, str]
    """Every check, in the order of the funnel, and what it asks."""
    total: Funnel
    per_subject: dict[str, Funnel]
    skipped: dict[str, int]
    """Questions of the train split that nothing was written for, by the reason."""
    sources: tuple[SourceRecord, ...]
    exam_sources: tuple[SourceRecord, ...]
    """The held-out questions."""
    dictionary_sources: tuple[SourceRecord, ...]
    samples_sha256: str
    licence: str
    """What the writer's terms ask of what it wrote."""


class WrittenSample(Record):
    """A sample in the journal: as drawn, with what the checks found (`reasoning.sample`)."""

    question: str
    number: int
    order: tuple[int, int, int, int, int]
    hinted: bool
    text: str
    tokens: int
    finish: Literal["stop", "length"]
    failed: tuple[str, ...]
    shuffled_choices: tuple[int | None, ...]
    support: float | None
    support_gain: float | None


class WrittenUnit(Record):
    """A line of the journal: samples `first` up to `end` of some questions, written and checked together."""

    questions: tuple[str, ...]
    first: int
    end: int
    hinted: bool
    samples: tuple[WrittenSample, ...]
