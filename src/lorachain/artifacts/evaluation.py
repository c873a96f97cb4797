"""Results of `lorachain eval` and `lorachain compare`."""

from typing import Any, ClassVar

from lorachain.artifacts.schema import Artifact, Record, renamed
from lorachain.artifacts.validation import Proportion, summary_from_1


class ScoredModelIdentity(Record):
    """Which weights were scored."""

    name: str
    base_sha256: str | None
    """None where a server generated, which does not show its weights."""
    adapter_sha256: str | None
    quantization: str
    engine: str | None = None
    """What generated texts where that was not lorachain itself, with its version: `openai vllm 0.33.0`."""


class QuestionSet(Record):
    sha256: str
    n: int
    exams: tuple[str, ...]
    subjects: tuple[str, ...]
    selection: dict[str, Any]


class Score(Proportion):
    """The accuracy over all questions, against chance."""

    chance: float
    p_chance: float
    """Two-sided exact binomial test."""
    summary: str


class MacroScore(Record):
    """The mean of the subjects' accuracies."""

    n: int
    subjects: int
    accuracy: float
    bootstrap95: tuple[float, float] | None


class MajorityLetter(Proportion):
    letter: str


class Baselines(Record):
    """Scores on the same questions without a model."""

    always_majority_letter: MajorityLetter
    always_longest_option: Proportion


class TokenCounts(Record):
    prompt: int
    generated: int


class RowsFile(Record):
    file: str
    sha256: str


class EvalResult(Artifact):
    """The `--out` file of `lorachain eval`. One row a question is in the parquet file that `rows` names."""

    title: ClassVar[str] = "exam result"
    remedy: ClassVar[str] = "evaluate again"

    schema_version: int = 4
    model: ScoredModelIdentity
    protocol: str
    protocol_version: str
    prompt_version: int = 1
    """`prompts.PROMPT_VERSION`; 1 before there was one."""
    settings: dict[str, Any]
    split: str
    notice: str | None = None
    """Where the split is `test`."""
    data: QuestionSet
    score: Score
    per_subject: dict[str, Proportion]
    macro: MacroScore
    baselines: Baselines
    report: dict[str, Any]
    """What only this protocol reports."""
    tokens: TokenCounts
    seconds: float
    versions: dict[str, str]
    rows: RowsFile

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        if stored["schema_version"] > 1:  # 3 adds `model.engine`, 4 `prompt_version`
            return stored
        result: dict[str, Any] = renamed(stored, {"words": "summary"})
        return {**result, "score": {**result["score"], "summary": summary_from_1(result["score"]["summary"])}}


class ComparedModel(Proportion):
    model: ScoredModelIdentity


class Flip(Record):
    """A question that exactly one of the two models answers correctly."""

    exam: str
    id: str
    gold: str
    a: str | None
    b: str | None


class Comparison(Record):
    """Model B against model A on the same questions."""

    protocol: str
    protocol_version: str
    prompt_version: int | None
    """None where neither result is ours."""
    settings: dict[str, Any]
    split: str
    n: int
    a: ComparedModel
    b: ComparedModel
    difference: float
    """accuracy(b) - accuracy(a)."""
    bootstrap95: tuple[float, float] | None
    """Paired bootstrap."""
    mcnemar_p: float
    summary: str
    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]
