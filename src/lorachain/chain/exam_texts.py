"""The questions behind a validation's ids, where their source still has them. Uses no network; imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lorachain.artifacts import TrainingInfo, ValidationResult
from lorachain.chain.exams import load_exam_questions
from lorachain.errors import DataError
from lorachain.evaluation.questions import question_set_hash
from lorachain.records import ExamQuestion


def validated_questions(info: TrainingInfo, result: ValidationResult) -> dict[tuple[str, str], ExamQuestion]:
    """The questions that a stage was validated on, by exam and id: exactly those, by their hash.

    Raises:
        DataError: a source is gone or was changed, or is on the hub and not in the cache.
    """
    limit = info.depends_on.settings.validation.get("max_questions", 0)
    with _offline(any(source.kind == "hub" for source in info.exam_sources)):
        loaded = load_exam_questions(
            [source.name for source in info.exam_sources], max_questions=int(limit), skip_bad_rows=True
        )
    if question_set_hash(loaded.dev) != result.data_sha256:
        raise DataError("the exam's questions are not those that were validated: their source was changed")
    return {(question.exam, question.id): question for question in loaded.dev}


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Lets the hub's libraries, which read this variable when they are imported, use their cache only."""
    before = os.environ.get("HF_HUB_OFFLINE")
    if wanted:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["HF_HUB_OFFLINE"]
        elif wanted and before is not None:
            os.environ["HF_HUB_OFFLINE"] = before
