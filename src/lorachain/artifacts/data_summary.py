"""What is in the sources of a training: `lorachain data show --json` and `run --dry-run`."""

from typing import ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record

ReadAs = Literal["plain text", "dictionary", "instructions", "exam"]


class Quantiles(Record):
    """Of a length over `n` records, by nearest rank."""

    n: int
    min: int
    p25: int
    p50: int
    p75: int
    p95: int
    max: int


class Refusals(Record):
    """Rows that are refused for one reason."""

    rows: int
    first: str
    """The message for the first of them."""


class ShownExample(Record):
    """One example as it is trained."""

    form: str
    """Which of the record's examples it is; empty where there is one only."""
    prompt: str
    """What the model reads, with the special tokens where a model is named."""
    supervised: str
    """What the loss is taken of."""
    tokens: int | None = None
    supervised_tokens: int | None = None


class ShownRecord(Record):
    where: str
    """`record 1`, or its place in the source where the record knows it."""
    examples: tuple[ShownExample, ...]
    further_examples: int
    """Trained too, in other forms, and not shown."""


class SourceSummary(Record):
    name: str
    read_as: ReadAs
    files: int | None
    """None for a hub data set."""
    records: int
    """Accepted, duplicates included."""
    complete: bool
    """False where reading ended at a limit."""
    splits: dict[str, int]
    """Of an exam: questions by split. The test split is never read."""
    duplicates: int
    """Records equal to an earlier one of the same split."""
    refused_rows: int
    refused: tuple[Refusals, ...]
    characters: Quantiles | None
    tokens: Quantiles | None
    """Of the longest example of a record; None without a model."""
    hangul: float
    latin: float
    """Both: share of the letters."""
    other_letters: float
    reasoning_writers: dict[str, int]
    """Of an exam: who wrote the reasoning that came with it."""
    shown: tuple[ShownRecord, ...]


class DataSummary(Artifact):
    title: ClassVar[str] = "data summary"
    remedy: ClassVar[str] = "run lorachain data show again"

    model: str | None
    """Whose tokenizer and chat template were used."""
    sources: tuple[SourceSummary, ...]
