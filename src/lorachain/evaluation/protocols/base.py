"""What a protocol is, and what it says about one question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from lorachain.errors import DataError
from lorachain.prompts import ANSWER_CUE, question_block
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

Shots = Mapping[str, Sequence[ExamQuestion]]
"""Worked examples by subject, in their published order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question's answer. `chosen` is None where the generation could not be parsed: that counts as wrong."""

    id: str
    exam: str
    subject: str
    gold: int
    chosen: int | None
    logprobs: tuple[float, ...] | None = None
    """The five scores by which it was chosen, in the order of the question's options."""
    generation: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    """What only this protocol has, JSON-able."""

    @property
    def correct(self) -> bool:
        return self.chosen == self.gold


class ExamProtocol(Protocol):
    """One way of asking."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def batch_questions(self) -> int:
        """How many questions are asked at a time; an interrupted evaluation goes on behind the last finished batch."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything beyond name and version that changes a score."""
        ...

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[Row]:
        """A row for each question, in the given order; all questions are of one subject."""
        ...

    def report(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What this protocol tells beyond accuracy, from all rows."""
        ...


def batches(questions: Sequence[ExamQuestion], size: int) -> list[list[int]]:
    """Indices in batches of one subject and like length, the longest first. The same questions always give the same
    batches, so that an evaluation that was interrupted ends with the very numbers of one that was not."""
    by_subject: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_subject.setdefault(question.subject, []).append(index)
    made: list[list[int]] = []
    for _, members in sorted(by_subject.items()):
        members.sort(key=lambda i: (-len(question_block(questions[i])), i))
        made += [members[i : i + size] for i in range(0, len(members), size)]
    return made


def subject_shots(shots: Shots, subject: str, count: int) -> list[ExamQuestion]:
    """The first `count` worked examples of a subject.

    Raises:
        DataError: the exam has fewer.
    """
    found = list(shots.get(subject, ()))[:count]
    if len(found) < count:
        raise DataError(
            f"{count} worked examples are asked for, but the exam's few-shot split has {len(found)} for subject "
            f"{subject!r}; use --shots 0, or an exam whose folder holds a few-shot file"
        )
    return found


def shots_text(shots: Sequence[ExamQuestion]) -> str:
    """Worked examples as lm-evaluation-harness' `kormedmcqa` 3.0 writes them, each followed by an empty line."""
    return "".join(f"{question_block(shot)}\n{ANSWER_CUE} {shot.answer_letter}\n\n" for shot in shots)
