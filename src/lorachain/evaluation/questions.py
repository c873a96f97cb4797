"""The identity of a set of exam questions."""

import hashlib
import json
from collections.abc import Sequence

from lorachain.data.normalization import normalize_text
from lorachain.errors import DataError
from lorachain.records import ExamQuestion


def question_set_hash(questions: Sequence[ExamQuestion]) -> str:
    """SHA-256 over ids, texts, options and answers in order: two scores compare only where it is the same."""
    digest = hashlib.sha256()
    for question in questions:
        fields = [question.exam, question.id, question.subject, question.question, *question.options, question.answer]
        digest.update(json.dumps(fields, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def question_content_hash(question: str, options: Sequence[str], answer: int) -> str:
    """SHA-256 of what a question says, whoever's file it is in: text, options in order and right answer, normalized."""
    texts = [" ".join(normalize_text(text).split()) for text in (question, *options)]
    return hashlib.sha256(json.dumps([*texts, answer], ensure_ascii=False).encode()).hexdigest()


def check_questions(questions: Sequence[ExamQuestion]) -> None:
    """Raises DataError for an empty selection or for ids that occur twice within an exam."""
    if not questions:
        raise DataError("no question to score: the selection is empty; check the exam's split, subjects and limit")
    seen: set[tuple[str, str]] = set()
    for question in questions:
        key = (question.exam, question.id)
        if key in seen:
            raise DataError(f"question id {question.id!r} occurs twice in exam {question.exam!r}; ids must be unique")
        seen.add(key)
