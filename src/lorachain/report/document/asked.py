"""Exam questions that two models were asked: who chose what, and what was written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorachain.artifacts import ValidationResult
from lorachain.records import LETTERS, ExamQuestion
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Number, Paragraph, Quote, Table, Text, Words
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words

STARTS = {"base model": Text("base", "베이스"), "stage start": Text("start of the step", "단계 시작")}
_BEGINNING = 48
"""Characters of a question by which it is recognized."""
Outcome = Literal["gained", "lost", "both right", "both wrong"]


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question, and the two answers to it."""

    exam: str
    id: str
    gold: str
    """The letter of the right answer."""
    chosen: tuple[str | None, str | None]
    """The letters of the first and of the last model; None: no answer."""
    correct: tuple[bool, bool]
    question: ExamQuestion | None
    """Its text and options, where its source still has them."""
    written: tuple[str, str] = ("", "")
    """What each model wrote; empty where a protocol generates nothing."""

    @property
    def beginning(self) -> str:
        """How its text begins; empty where that is not known."""
        text = " ".join(self.question.question.split()) if self.question is not None else ""
        return f"{text[:_BEGINNING]}…" if len(text) > _BEGINNING else text

    @property
    def outcome(self) -> Outcome:
        outcomes: dict[tuple[bool, bool], Outcome] = {
            (False, True): "gained",
            (True, False): "lost",
            (True, True): "both right",
            (False, False): "both wrong",
        }
        return outcomes[self.correct]


@dataclass(frozen=True, slots=True)
class AskedExam:
    """All questions of a comparison, in the order of the exam."""

    title: Words
    models: tuple[Text, Text]
    questions: tuple[AskedQuestion, ...]

    def of(self, outcome: Outcome) -> list[AskedQuestion]:
        return [question for question in self.questions if question.outcome == outcome]


def validated_exam(data: ReportData) -> AskedExam | None:
    """The last validation against the earliest on the same questions; None where there is none."""
    kept, start, last = data.kept_score(), data.start_score(), data.last
    if kept is None or start is None or last is None:
        return None
    protocol = last.validation.selected_by
    if protocol not in kept.result.questions.chosen:
        protocol = next(iter(kept.result.questions.chosen))
    name = STARTS[start[0]]
    models = (name, Text(f"step {kept.stage}", f"{kept.stage}단계"))
    asked = tuple(_validated(start[1].result, kept.result, protocol, data.questions))
    return AskedExam((*between(kept.stage, name), f", {protocol}"), models, asked)


def between(stage: str, start: Text) -> tuple[str | Text | Number, ...]:
    return (Text("Step ", ""), stage, Text(f" against the {start.en}", f"단계와 {start.ko}의 비교"))


def _validated(
    before: ValidationResult,
    after: ValidationResult,
    protocol: str,
    texts: Mapping[tuple[str, str], ExamQuestion],
) -> Iterator[AskedQuestion]:
    was, now = before.correct(protocol), after.correct(protocol)
    asked = after.questions
    chosen = zip(before.questions.chosen[protocol], asked.chosen[protocol], strict=True)
    for i, (first, last) in enumerate(chosen):
        question = texts.get((asked.exams[i], asked.ids[i]))
        yield AskedQuestion(asked.exams[i], asked.ids[i], asked.gold[i], (first, last), (was[i], now[i]), question)


def evaluated_exam(data: ReportData) -> AskedExam | None:
    """The results that the user named, the last against the first; None where they are not compared."""
    given = data.results
    if given.comparison is None:
        return None
    compared = given.comparison
    first, last = given.results[0].model.name, given.results[-1].model.name
    names = (first, last) if first != last else (f"A: {first}", f"B: {last}")
    models = (Text(names[0], names[0]), Text(names[1], names[1]))
    difference = Number(compared.difference, f"{100 * compared.difference:+.1f}")
    title = (
        *(models[1], Text(" against ", "와 다음의 비교: "), models[0], f", {compared.protocol}: ", difference),
        *(Text(" points (", " %p ("), numbers.p_value(compared.mcnemar_p), "); ", words.summary(compared.summary)),
    )
    earlier = {(row["exam"], row["id"]): row for row in given.rows[0]}
    return AskedExam(title, models, tuple(_evaluated(earlier, given.rows[-1], data.questions)))


def _evaluated(
    earlier: Mapping[tuple[str, str], Mapping[str, Any]],
    rows: list[dict[str, Any]],
    texts: Mapping[tuple[str, str], ExamQuestion],
) -> Iterator[AskedQuestion]:
    for row in rows:
        key = (row["exam"], row["id"])
        before = earlier[key]
        yield AskedQuestion(
            *key,
            row["gold"],
            (before["chosen"], row["chosen"]),
            (bool(before["correct"]), bool(row["correct"])),
            texts.get(key),
            (before["generation"] or "", row["generation"] or ""),
        )


def asked_blocks(asked: AskedQuestion, models: tuple[Text, Text]) -> list[Block]:
    """A question's text and options where they are known, who chose what, and what was written."""
    blocks: list[Block] = []
    if asked.question is not None:
        blocks.append(Paragraph(asked.question.question))
        rows: list[tuple[Words | Cell, ...]] = []
        for letter, option in zip(LETTERS, asked.question.options, strict=True):
            chosen_by = [model for model, other in zip(models, asked.chosen, strict=True) if other == letter]
            who: Words = tuple([part for one in chosen_by for part in (", ", one)][1:])
            right: Words = Text("right answer", "정답") if letter == asked.gold else ""
            rows.append((letter, Cell(option, "better-1" if letter == asked.gold else ""), right, who or ""))
        columns = (
            Text("letter", "글자"),
            Text("option", "선지"),
            Text("right", "정답"),
            Text("chosen by", "고른 모델"),
        )
        blocks.append(Table(Text("Options", "선지"), columns, rows))
    blocks += [Quote(model, text) for model, text in zip(models, asked.written, strict=True) if text]
    return blocks or [words.missing("Its text is not known.", "본문을 알 수 없습니다.")]


def asked_summary(asked: AskedQuestion, models: tuple[Text, Text]) -> Words:
    """`exam id “How the question begins…”: right C; base A; step 02 C`."""
    answers = [
        part
        for model, letter in zip(models, asked.chosen, strict=True)
        for part in ("; ", model, f" {letter or numbers.NOT_MEASURED}")
    ]
    return (*_named(asked), Text(": right ", ": 정답 "), asked.gold, *answers)


def _named(asked: AskedQuestion) -> tuple[str, ...]:
    """Exam and id, and how the question begins."""
    name = f"{asked.exam} {asked.id}"
    return (name, f" “{asked.beginning}”") if asked.beginning else (name,)
