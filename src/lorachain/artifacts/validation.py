"""Exam scores of the epochs: `kormedmcqa_validation_results.json`, and the state of a run that is not finished."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lorachain.artifacts.schema import Artifact, Record, renamed
from lorachain.errors import DataError


class Proportion(Record):
    """An accuracy with its n and its Wilson 95 % interval."""

    n: int
    correct: int
    accuracy: float
    wilson95: tuple[float, float]


class ProtocolScore(Proportion):
    """The headline of one protocol: everything that must accompany a score."""

    protocol: str
    protocol_version: str
    split: str
    summary: str
    """How it differs from chance, with p."""


class ProtocolResult(ProtocolScore):
    """One protocol's score in full."""

    chosen_letters: dict[str, int]
    chance: float
    p_chance: float
    per_exam: dict[str, Proportion]
    per_subject: dict[str, Proportion]

    @property
    def headline(self) -> ProtocolScore:
        return ProtocolScore(**{name: getattr(self, name) for name in ProtocolScore.model_fields})


class PairedComparison(Record):
    """One protocol on the same questions, before and after: exact McNemar test."""

    protocol: str
    protocol_version: str
    split: str
    n: int
    lost: int
    gained: int
    mcnemar_p: float
    summary: str


class Answers(Record):
    """One letter a question, in the order of `ids`."""

    ids: tuple[str, ...]
    exams: tuple[str, ...]
    subjects: tuple[str, ...]
    gold: str
    chosen: dict[str, str]
    """By protocol."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        parts = (self.exams, self.subjects, self.gold, *self.chosen.values())
        if any(len(part) != len(self.ids) for part in parts):
            raise ValueError("there is not one exam, subject, gold letter and chosen letter for each id")
        return self


class ValidationResult(Record):
    """Both validation protocols on one set of questions."""

    split: str
    data_sha256: str
    """Of the questions (`evaluation.validation.question_set_hash`)."""
    prompt_version: int = 1
    """`prompts.PROMPT_VERSION`; 1 before there was one."""
    n: int
    seconds: float
    protocols: dict[str, ProtocolResult]
    questions: Answers

    @model_validator(mode="after")
    def _scores_of_the_answers(self) -> Self:
        if self.protocols.keys() != self.questions.chosen.keys() or self.n != len(self.questions.ids):
            raise ValueError("the protocols or n are not those of its questions")
        for name, score in self.protocols.items():
            if (score.n, score.correct) != (self.n, sum(self.correct(name))):
                raise ValueError(f"the score of {name} is not that of its answers")
        return self

    def correct(self, protocol: str) -> list[bool]:
        """Question by question, in the order of `questions.ids`.

        Raises:
            DataError: it was not validated by this protocol.
        """
        if protocol not in self.questions.chosen:
            validated = ", ".join(self.questions.chosen) or "none"
            raise DataError(f"a validation has no protocol {protocol!r}, only: {validated}; run its stage again")
        return [a == b for a, b in zip(self.questions.chosen[protocol], self.questions.gold, strict=True)]

    def better_than(self, other: "ValidationResult", protocol: str) -> bool:
        """Whether more questions are correct than in `other`; a tie is not better, so the earlier epoch is kept."""
        self.check_same_questions(other)
        return sum(self.correct(protocol)) > sum(other.correct(protocol))

    def asks_the_same(self, other: "ValidationResult") -> bool:
        """Whether both have the same questions, with the same prompts."""
        return (self.data_sha256, self.prompt_version) == (other.data_sha256, other.prompt_version)

    def check_same_questions(self, other: "ValidationResult") -> None:
        """Raises DataError unless both were measured on the same questions and split, with the same prompts."""
        if self.prompt_version != other.prompt_version:
            raise DataError(
                f"validation results differ in their prompts: versions {other.prompt_version} and "
                f"{self.prompt_version}; run the earlier stage again"
            )
        if self.split != other.split or self.data_sha256 != other.data_sha256:
            raise DataError(
                f"validation results differ in their questions: split {other.split!r} "
                f"({other.data_sha256[:12]}) and {self.split!r} ({self.data_sha256[:12]}); "
                "validate both on the same exam"
            )


class EpochScore(Record):
    """One validation; epoch 0 is before training."""

    stage: str
    epoch: int
    step: int
    """Optimizer steps done."""
    at: str
    result: ValidationResult
    compared_with: dict[str, dict[str, PairedComparison]]
    """By protocol, against "stage start" and "base model", where the questions are the same."""

    @property
    def summary(self) -> str:
        """The epoch, and the score by each protocol with its interval and n."""
        parts = []
        for score in self.result.protocols.values():
            low, high = score.wilson95
            parts.append(
                f"{score.protocol}/{score.protocol_version} {100 * score.accuracy:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}] n={score.n} ({score.split}), {score.summary}"
            )
        return f"{'before' if self.epoch == 0 else f'epoch {self.epoch}'}: " + "; ".join(parts)


class ValidationHistory(Artifact):
    """`kormedmcqa_validation_results.json`: every validation on the way to a stage, oldest first."""

    title: ClassVar[str] = "validation history"

    schema_version: int = 2
    results: tuple[EpochScore, ...]

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        return {**stored, "results": [epoch_score_from_1(score) for score in stored["results"]]}


class Measure(Record):
    """What a stage should improve beyond the exam: one number with its n and, where there is one, its interval."""

    name: str
    protocol_version: str
    split: str
    value: float | None
    """None where nothing could be counted (a dictionary without names)."""
    n: int
    unit: Literal["tokens", "answers", "questions"]
    """What n counts."""
    wilson95: tuple[float, float] | None = None
    detail: dict[str, Any] = Field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The value with its n and, where there is one, its interval."""
        if self.value is None:
            return f"{self.name}: none of the {self.unit} could be counted"
        if self.wilson95 is None:
            return f"{self.name} {self.value:.2f} (n={self.n:,} {self.unit})"
        low, high = self.wilson95
        return f"{self.name} {100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={self.n:,}"


class RunState(Artifact):
    """`run.json`: what a running stage has measured so far."""

    title: ClassVar[str] = "run state"
    remedy: ClassVar[str] = "the stage starts again"

    schema_version: int = 2
    fingerprint: str
    """SHA-256 of everything that decides the stage's result."""
    before: dict[str, Measure] | None
    scores: tuple[EpochScore, ...]


def epoch_score_from_1(stored: dict[str, Any]) -> dict[str, Any]:
    """An epoch's score of schema version 1."""
    score: dict[str, Any] = renamed(stored, {"words": "summary"})
    result = score["result"]
    if result.pop("schema_version") != 1:
        raise ValueError("a validation result has an unknown schema version")
    for protocol in result["protocols"].values():
        protocol["protocol_version"] = str(protocol.pop("version"))
        protocol["summary"] = summary_from_1(protocol["summary"])
    for comparisons in score["compared_with"].values():
        for comparison in comparisons.values():
            comparison["protocol_version"] = str(comparison.pop("version"))
            comparison["summary"] = summary_from_1(comparison["summary"])
    return score


def measures_from_1(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """A stage's measures of schema version 1: perplexity, or exact match under its old name `recall`."""
    if stored is None:
        return None
    measures: dict[str, Any] = {}
    if perplexity := stored.get("heldout_perplexity"):
        measures["heldout_perplexity"] = {
            "name": "perplexity",
            "protocol_version": "1",
            "split": "held-out documents",
            "value": perplexity["perplexity"],
            "n": perplexity["tokens"],
            "unit": "tokens",
            "detail": {"documents": perplexity["documents"]},
        }
    if match := stored.get("recall"):
        measures["exact_match"] = {
            "name": "exact match",
            "protocol_version": str(match["version"]),
            "split": match["split"],
            "value": match["exact_match"],
            "n": match["n"],
            "unit": "answers",
            "wilson95": match["wilson95"],
            "detail": {key: match[key] for key in ("exact", "character_f1", "by_direction")},
        }
    return measures


def summary_from_1(text: str) -> str:
    """The wording of schema version 1 in today's."""
    return text.replace("cannot be told from", "not significantly different from")
