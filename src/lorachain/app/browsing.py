"""The exam's questions, with what two models answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorachain.app import texts
from lorachain.chain.context import ChainContext
from lorachain.report.document.asked import (
    AskedExam,
    AskedQuestion,
    asked_blocks,
    asked_summary,
    evaluated_exam,
    validated_exam,
)
from lorachain.report.document.blocks import Block, Language, Paragraph, Text
from lorachain.report.document.collect import collect
from lorachain.report.document.sections import words


@dataclass(frozen=True, slots=True)
class Exams:
    """The comparisons that can be browsed, by their keys, and what to say where something is missing."""

    by_key: dict[str, AskedExam]
    notes: tuple[Block, ...] = ()


NO_EXAMS = Exams({})


def load_exams(context: ChainContext, results: Sequence[Path]) -> Exams:
    """The last validation of the chain, and the results that the user named.

    Raises:
        DataError: one of `results` cannot be read.
    """
    data = collect(context, results)
    exams = {"validation": validated_exam(data), "results": evaluated_exam(data)}
    notes: list[Block] = []
    if exams["validation"] is not None and not data.questions:
        note = data.notes.get("questions")
        notes.append(words.missing("The questions' texts are not shown:", "문항의 본문은 표시하지 않습니다:", note))
    if data.results.not_compared:
        because = data.results.not_compared
        notes.append(words.missing("The results are not compared:", "결과를 비교하지 않습니다:", because))
    return Exams({key: exam for key, exam in exams.items() if exam is not None}, tuple(notes))


def comparison_choices(exams: Exams) -> list[tuple[Text, str]]:
    names = {"validation": texts.VALIDATION, "results": texts.RESULTS}
    return [(names[key], key) for key in exams.by_key]


def outcome_choices(exam: AskedExam | None) -> list[tuple[Text, str]]:
    """`gained (12)` and its like."""
    counts = {outcome: len(questions_of(exam, outcome)) for outcome in texts.OUTCOMES}
    return [(Text(f"{t.en} ({counts[key]})", f"{t.ko} ({counts[key]})"), key) for key, t in texts.OUTCOMES.items()]


def questions_of(exam: AskedExam | None, outcome: str) -> list[AskedQuestion]:
    if exam is None:
        return []
    return [asked for asked in exam.questions if outcome in ("all", asked.outcome)]


def key_of(asked: AskedQuestion) -> str:
    return f"{asked.exam} {asked.id}"


def question_choices(exam: AskedExam | None, outcome: str) -> list[tuple[str, str]]:
    """The id and the beginning of each question, so that both can be searched."""
    return [(_label(asked), key_of(asked)) for asked in questions_of(exam, outcome)]


def _label(asked: AskedQuestion) -> str:
    return f"{asked.id}  {asked.beginning}".strip()


def find_asked(exam: AskedExam | None, key: str | None) -> AskedQuestion | None:
    return next((asked for asked in questions_of(exam, "all") if key_of(asked) == key), None)


def neighbor(exam: AskedExam | None, outcome: str, key: str | None, by: int) -> str | None:
    """The question that many places further; the first or the last one where there is none."""
    keys = [key_of(asked) for asked in questions_of(exam, outcome)]
    if not keys:
        return None
    return keys[min(max(keys.index(key) + by, 0), len(keys) - 1)] if key in keys else keys[0]


def question_blocks(exams: Exams, exam: AskedExam | None, key: str | None) -> list[Block]:
    """A question with both answers; why there is none where there is none."""
    if exam is None:
        return [Paragraph(texts.NOT_VALIDATED, "missing"), *exams.notes]
    asked = find_asked(exam, key)
    if asked is None:
        return [Paragraph(exam.title, "note"), *exams.notes, Paragraph(texts.NO_QUESTIONS, "missing")]
    summary = Paragraph(asked_summary(asked, exam.models), "title")
    return [Paragraph(exam.title, "note"), *exams.notes, summary, *asked_blocks(asked, exam.models)]


def in_language(choices: Sequence[tuple[Text, str]], language: Language) -> list[tuple[str, str]]:
    return [(text.ko if language == "ko" else text.en, value) for text, value in choices]
