"""The questions that a chain is validated on, and those that nothing may be trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorachain.data.exam import load_exam, spread
from lorachain.data.sources import SourceInfo
from lorachain.records import ExamQuestion


@dataclass(frozen=True, slots=True)
class ExamQuestions:
    """The dev split of all exam sources, read once per start."""

    dev: list[ExamQuestion]
    """What is validated: at most `max_questions`, spread over exams and subjects, without few-shot examples."""
    held_out: list[ExamQuestion]
    """Every dev and few-shot question, whatever the limit: none of them is ever trained on."""
    sources: list[SourceInfo]


def load_exam_questions(sources: Sequence[str], *, max_questions: int, skip_bad_rows: bool) -> ExamQuestions:
    """Reads dev and few-shot questions; the test split is never read.

    Args:
        max_questions: 0 is all.

    Raises:
        DataError: a source cannot be read or has no dev split.
    """
    loaded = load_exam(sources, "dev", skip_bad_rows=skip_bad_rows)
    return ExamQuestions(
        dev=spread(loaded.questions, max_questions or None),
        held_out=[*loaded.questions, *loaded.fewshot],
        sources=loaded.sources,
    )
