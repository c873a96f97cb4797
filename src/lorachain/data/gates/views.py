"""How the gates see each kind of record: its fields of text, where it is, and the same record with other texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from lorachain.data.gates.chunk import Fields
from lorachain.records import ExamQuestion, Instruction, PlainText, Term

Kind = Literal["plain_text", "dictionary", "exam", "instruct"]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class View(Generic[R]):
    """One kind of record."""

    kind: Kind
    singular: str
    fields: Callable[[R], Fields]
    rebuilt: Callable[[R, Sequence[str]], R]
    where: Callable[[R, int], str]
    """From the record and its number."""
    duplicates: bool
    """Whether equal or similar records are searched for."""
    quality: bool
    stem_alone: bool = True
    """See `Contamination`."""


def _term_fields(term: Term) -> Fields:
    return term.term, term.definition or "", term.english or ""


def _question_fields(question: ExamQuestion) -> Fields:
    return question.question, *question.options, *([question.reasoning] if question.reasoning else [])


def _rebuilt_question(question: ExamQuestion, fields: Sequence[str]) -> ExamQuestion:
    stem, a, b, c, d, e, *reasoning = fields
    return replace(question, question=stem, options=(a, b, c, d, e), reasoning=reasoning[0] if reasoning else None)


def _instruction_fields(item: Instruction) -> Fields:
    return tuple(text for exchange in item.exchanges for text in exchange)


def _rebuilt_instruction(item: Instruction, fields: Sequence[str]) -> Instruction:
    (prompt, completion), *later = zip(fields[::2], fields[1::2], strict=True)
    return replace(item, prompt=prompt, completion=completion, later=tuple(later))


def _document_fields(document: PlainText | Instruction) -> Fields:
    return _instruction_fields(document) if isinstance(document, Instruction) else (document.text,)


def _rebuilt_document(document: PlainText | Instruction, fields: Sequence[str]) -> PlainText | Instruction:
    if isinstance(document, Instruction):
        return _rebuilt_instruction(document, fields)
    return replace(document, text=fields[0])


def _document_place(document: PlainText | Instruction, number: int) -> str:
    return f"document {number}" if isinstance(document, Instruction) else document.source or f"document {number}"


PLAIN_TEXT: View[PlainText | Instruction] = View(
    "plain_text",
    "document",
    _document_fields,
    _rebuilt_document,
    _document_place,
    duplicates=True,
    quality=True,
)
DICTIONARY: View[Term] = View(
    "dictionary",
    "entry",
    _term_fields,
    lambda term, fields: replace(term, term=fields[0], definition=fields[1] or None, english=fields[2] or None),
    lambda term, number: f"entry {number}",
    duplicates=False,
    quality=False,
    stem_alone=False,
)
EXAM: View[ExamQuestion] = View(
    "exam",
    "question",
    _question_fields,
    _rebuilt_question,
    lambda question, number: f"question {number} ({question.exam}/{question.id})",
    duplicates=False,
    quality=False,
)
INSTRUCT: View[Instruction] = View(
    "instruct",
    "instruction",
    _instruction_fields,
    _rebuilt_instruction,
    lambda item, number: f"instruction {number}",
    duplicates=True,
    quality=False,
)
