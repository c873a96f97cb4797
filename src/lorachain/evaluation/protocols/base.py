"""What an evaluation protocol is, and its result for one question. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from lorachain.artifacts.schema import Record
from lorachain.errors import DataError
from lorachain.prompts import ANSWER_CUE, question_block
from lorachain.records import LETTERS, ExamQuestion

if TYPE_CHECKING:
    from torch import nn

    from lorachain.tokens import TokenEncoder

LETTERS_VERSION = "1"
OPTIONS_VERSION = "1"
"""Versions of `letters` and `options`: the same in the validation of an epoch and in `lorachain eval`, which share one
implementation (evaluation/scoring.py). Raise one wherever a score of the same model on the same questions changes."""

Shots = Mapping[str, Sequence[ExamQuestion]]
"""Worked examples by subject, in their published order."""


Option = Annotated[int, Field(ge=0, lt=len(LETTERS))]
"""Index of an option. These bounds are checked where results are read from a file."""
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """The result for one question."""

    id: str
    exam: str
    subject: str
    gold: Option
    """Index of the right option."""
    chosen: Option | None
    """Index of the chosen option; None where the generated answer could not be parsed, which counts as wrong."""
    logprobs: Annotated[tuple[_Finite, ...], Field(min_length=len(LETTERS), max_length=len(LETTERS))] | None = None
    """The five scores that the choice is made by, in the order of the question's options."""
    generation: str | None = None
    prompt_tokens: _Count = 0
    generated_tokens: _Count = 0
    detail: dict[str, Any] = field(default_factory=dict)
    """What only this protocol reports, as JSON values: the fields of its `detail_type`."""

    @property
    def correct(self) -> bool:
        return self.chosen == self.gold


class ExamProtocol(Protocol):
    """One way to score a model on exam questions."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def batch_questions(self) -> int:
        """How many questions are scored at a time; an interrupted evaluation resumes after the last complete batch."""
        ...

    @property
    def detail_type(self) -> type[Record]:
        """What `QuestionResult.detail` holds, to check what was read from a file."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything beyond name and version that changes a score."""
        ...

    def score(
        self, model: "nn.Module", encoder: "TokenEncoder", questions: Sequence[ExamQuestion]
    ) -> list[QuestionResult]:
        """A result per question, in the order of the questions, which are all of one subject."""
        ...

    def report(self, results: Sequence[QuestionResult]) -> dict[str, Any]:
        """What this protocol reports beyond accuracy, from the results of all questions."""
        ...


def batches(questions: Sequence[ExamQuestion], size: int) -> list[list[int]]:
    """Indices in batches of one subject and similar length, longest first.

    The same questions always give the same batches, so an evaluation that was interrupted and resumed ends with exactly
    the numbers of one that was not.
    """
    by_subject: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_subject.setdefault(question.subject, []).append(index)
    groups: list[list[int]] = []
    for _, members in sorted(by_subject.items()):
        members.sort(key=lambda i: (-len(question_block(questions[i])), i))
        groups += [members[i : i + size] for i in range(0, len(members), size)]
    return groups


def subject_shots(shots: Shots, subject: str, count: int) -> list[ExamQuestion]:
    """The first `count` worked examples of a subject.

    Raises:
        DataError: the exam has fewer.
    """
    examples = list(shots.get(subject, ()))[:count]
    if len(examples) < count:
        raise DataError(
            f"{count} worked examples are needed, but the exam's few-shot split has {len(examples)} for subject "
            f"{subject!r}; use --shots 0, or an exam directory with a few-shot file"
        )
    return examples


def shots_text(shots: Sequence[ExamQuestion]) -> str:
    """Worked examples as lm-evaluation-harness' `kormedmcqa` 3.0 writes them, each followed by an empty line."""
    return "".join(f"{question_block(shot)}\n{ANSWER_CUE} {shot.answer_letter}\n\n" for shot in shots)
