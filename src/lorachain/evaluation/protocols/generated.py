"""What the protocols that read a generated text have in common."""

from collections.abc import Sequence
from typing import Any

from lorachain.artifacts.schema import Record
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.records import ExamQuestion


class WrittenDetail(Record):
    """`detail` of a result that was read from a generated text."""

    ended: bool
    """False if it was cut off at the token limit."""


def written_row(
    question: ExamQuestion,
    text: str,
    chosen: int | None,
    *,
    prompt_tokens: int,
    generated_tokens: int,
    ended: bool,
    **detail: Any,
) -> QuestionResult:
    """A row from one generation; `ended` is False if it was cut off at the token limit."""
    return QuestionResult(
        id=question.id,
        exam=question.exam,
        subject=question.subject,
        gold=question.answer,
        chosen=chosen,
        generation=text,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        detail={"ended": ended, **detail},
    )


def written_report(rows: Sequence[QuestionResult]) -> dict[str, Any]:
    """How many answers could not be parsed or were cut off at the limit, and how long they were."""
    n = len(rows)
    unparsed = sum(row.chosen is None for row in rows)
    return {
        "unparsed": {"n": n, "count": unparsed, "rate": unparsed / n},
        "cut_at_limit": {"n": n, "count": sum(not row.detail["ended"] for row in rows)},
        "generated_tokens_per_question": sum(row.generated_tokens for row in rows) / n,
    }
