"""Exam results by subject, and the questions gained and lost to browse."""

from collections.abc import Iterator, Mapping
from typing import Any

from lorachain.artifacts import EvalResult, ValidationResult
from lorachain.artifacts.validation import Proportion
from lorachain.records import LETTERS, ExamQuestion
from lorachain.report.document import numbers
from lorachain.report.document.blocks import (
    Block,
    Cell,
    Fold,
    Number,
    Paragraph,
    Quote,
    Section,
    Table,
    Text,
    Words,
    parts,
)
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words
from lorachain.report.document.sections.overview import score_picture

_STARTS = {"base model": Text("base", "베이스"), "stage start": Text("start of the step", "단계 시작")}
_MOST = 100
"""Questions to browse of each kind."""


def exam_section(data: ReportData) -> Section:
    """The last validation by subject, and the results that the user named."""
    blocks: list[Block] = []
    kept, start = data.kept_score(), data.start_score()
    if kept is None:
        blocks.append(
            words.missing("Nothing has been validated yet.", "아직 검증한 결과가 없습니다.", data.notes.get("history"))
        )
    else:
        before = start[1].result if start else None
        name = _STARTS[start[0]] if start else Text("before", "전")
        blocks.append(
            Paragraph(
                Text(
                    "Scores are on the dev split. The epoch of the last step may have been chosen on these questions, "
                    "so "
                    "its score is an optimistic one. `letters` reads the most likely letter; `options` the most likely "
                    "text of an option.",
                    "점수는 dev 분할의 것입니다. 마지막 단계의 에포크를 이 문항들로 골랐을 수 있으므로 그 점수는 조금 "
                    "높게 나올 수 "
                    "있습니다. `letters`는 가장 그럴듯한 글자, `options`는 가장 그럴듯한 선지 본문을 답으로 읽습니다.",
                ),
                "note",
            )
        )
        for protocol in kept.result.protocols:
            blocks.append(_subject_table(protocol, kept.stage, kept.result, before, name))
            if start and (compared := kept.compared_with.get(start[0], {}).get(protocol)):
                line: Words = (
                    *_between(kept.stage, name),
                    ": ",
                    *parts(numbers.paired(compared)),
                    "; ",
                    words.summary(compared.summary),
                )
                blocks.append(Paragraph(line))
    blocks += map(_result_table, data.results.results)
    return Section("exam", Text("Exam by subject", "과목별 시험 결과"), blocks)


def flip_section(data: ReportData) -> Section:
    """Questions that exactly one of the first and the last model answers correctly, each to be opened."""
    title = Text("Questions gained and lost", "새로 맞힌 문항과 틀리게 된 문항")
    blocks: list[Block] = []
    kept, start, last = data.kept_score(), data.start_score(), data.last
    if kept is not None and start is not None and last is not None:
        protocol = last.validation.selected_by
        if protocol not in kept.result.questions.chosen:
            protocol = next(iter(kept.result.questions.chosen))
        name = _STARTS[start[0]]
        blocks.append(Paragraph((*_between(kept.stage, name), f", {protocol}"), "note"))
        if not data.questions:
            blocks.append(
                words.missing(
                    "The questions' texts are not shown:",
                    "문항의 본문은 표시하지 않습니다:",
                    data.notes.get("questions"),
                )
            )
        blocks += _flips(kept.stage, name, kept.result, start[1].result, protocol, data.questions)
    elif kept is not None:
        blocks.append(
            words.missing(
                "No earlier model was validated on the same questions.", "같은 문항으로 검증한 앞 모델이 없습니다."
            )
        )
    else:
        blocks.append(words.missing("Nothing has been validated yet.", "아직 검증한 결과가 없습니다."))
    blocks += _result_flips(data)
    return Section("flips", title, blocks)


def _between(stage: str, start: Text) -> tuple[str | Text | Number, ...]:
    return (Text("Step ", ""), stage, Text(f" against the {start.en}", f"단계와 {start.ko}의 비교"))


def _subject_table(
    protocol: str, stage: str, after: ValidationResult, before: ValidationResult | None, start: Text
) -> Table:
    score = after.protocols[protocol]
    earlier = before.protocols.get(protocol) if before else None
    rows: list[tuple[Words | Cell, ...]] = [_score_row(Text("all", "전체"), earlier, score)]
    groups = [(score.per_subject, earlier.per_subject if earlier else {})]
    if len(score.per_exam) > 1:
        groups.insert(0, (score.per_exam, earlier.per_exam if earlier else {}))
    for now, then in groups:
        rows += [_score_row(subject, then.get(subject), part) for subject, part in now.items()]
    caption: Words = (
        Text("Step ", ""),
        stage,
        Text(", ", "단계, "),
        f"{protocol}/{score.protocol_version} ({score.split}); ",
        Text("answers given ", "고른 답 "),
        ", ".join(f"{letter} {count}" for letter, count in score.chosen_letters.items()),
    )
    columns = (Text("subject", "과목"), start, Text("now", "현재"), Text("picture", "그림"))
    return Table(caption, columns, rows)


def _score_row(label: Words, before: Proportion | None, after: Proportion) -> tuple[Words | Cell, ...]:
    picture = score_picture(before, after)
    return label, numbers.proportion(before), numbers.proportion(after), Cell("", picture=picture)


def _result_table(result: EvalResult) -> Table:
    rows: list[tuple[Words | Cell, ...]] = [_result_row(Text("all", "전체"), result.score)]
    rows += [_result_row(subject, score) for subject, score in result.per_subject.items()]
    baselines = result.baselines
    rows.append(
        _result_row(
            Text("baseline: always the majority letter", "기준선: 가장 많은 글자만"), baselines.always_majority_letter
        )
    )
    rows.append(
        _result_row(
            Text("baseline: always the longest option", "기준선: 가장 긴 선지만"), baselines.always_longest_option
        )
    )
    caption: Words = (
        f"{result.model.name}, {result.protocol}/{result.protocol_version} ({result.split}); ",
        words.summary(result.score.summary),
        f". {result.notice}" if result.notice else "",
    )
    return Table(caption, (Text("subject", "과목"), Text("accuracy", "정답률"), Text("picture", "그림")), rows)


def _result_row(label: Words, score: Proportion) -> tuple[Words | Cell, ...]:
    return label, numbers.proportion(score), Cell("", picture=score_picture(None, score))


def _flips(
    stage: str,
    start: Text,
    after: ValidationResult,
    before: ValidationResult,
    protocol: str,
    questions: Mapping[tuple[str, str], ExamQuestion],
) -> Iterator[Block]:
    was, now = before.correct(protocol), after.correct(protocol)
    asked = after.questions
    by_kind: dict[bool, list[Fold]] = {True: [], False: []}
    for i, question_id in enumerate(asked.ids):
        if was[i] == now[i]:
            continue
        question = questions.get((asked.exams[i], question_id))
        chosen = {start: before.questions.chosen[protocol][i], _step(stage): asked.chosen[protocol][i]}
        by_kind[now[i]].append(_flip(f"{asked.exams[i]} {question_id}", asked.gold[i], chosen, question, ()))
    yield from _groups(by_kind[True], by_kind[False])


def _step(stage: str) -> Text:
    return Text(f"step {stage}", f"{stage}단계")


def _groups(gained: list[Fold], lost: list[Fold]) -> Iterator[Block]:
    for title, folds in ((Text("Gained", "새로 맞힘"), gained), (Text("Lost", "틀리게 됨"), lost)):
        yield Paragraph((title, ": ", numbers.count(len(folds))), "title")
        yield from folds[:_MOST]
        if len(folds) > _MOST:
            yield words.missing(f"Only the first {_MOST} are shown.", f"처음 {_MOST}개만 표시합니다.")


def _flip(
    name: str,
    gold: str,
    chosen: Mapping[Text, str | None],
    question: ExamQuestion | None,
    written: tuple[Quote, ...],
) -> Fold:
    """One question: its text and options where they are known, who chose what, and what was written."""
    answers = [part for who, letter in chosen.items() for part in ("; ", who, f" {letter or numbers.NOT_MEASURED}")]
    blocks: list[Block] = []
    if question is not None:
        blocks.append(Paragraph(question.question))
        marks = {letter: [who for who, other in chosen.items() if other == letter] for letter in LETTERS}
        rows: list[tuple[Words | Cell, ...]] = []
        for letter, option in zip(LETTERS, question.options, strict=True):
            who = [part for one in marks[letter] for part in (", ", one)][1:]
            right: Words = Text("right answer", "정답") if letter == gold else ""
            rows.append((letter, Cell(option, "better-1" if letter == gold else ""), right, tuple(who) or ""))
        columns = (
            Text("letter", "글자"),
            Text("option", "선지"),
            Text("right", "정답"),
            Text("chosen by", "고른 모델"),
        )
        blocks.append(Table(Text("Options", "선지"), columns, rows))
    blocks += written
    if not blocks:
        blocks.append(words.missing("Its text is not known.", "본문을 알 수 없습니다."))
    return Fold((name, Text(": right ", ": 정답 "), gold, *answers), blocks)


def _result_flips(data: ReportData) -> Iterator[Block]:
    """Of results that the user named: the questions of their comparison, with what each model wrote."""
    given = data.results
    if given.not_compared:
        yield words.missing("The results are not compared:", "결과를 비교하지 않습니다:", given.not_compared)
    if given.comparison is None:
        return
    compared = given.comparison
    first, last = ({(row["exam"], row["id"]): row for row in rows} for rows in (given.rows[0], given.rows[-1]))
    names = [Text(result.model.name, result.model.name) for result in (given.results[0], given.results[-1])]
    if names[0] == names[1]:
        names = [Text(f"A: {names[0].en}", f"A: {names[0].ko}"), Text(f"B: {names[1].en}", f"B: {names[1].ko}")]
    difference = Number(compared.difference, f"{100 * compared.difference:+.1f}")
    yield Paragraph(
        (
            *(names[1], Text(" against ", "와 다음의 비교: "), names[0], f", {compared.protocol}: ", difference),
            *(Text(" points (", " %p ("), numbers.p_value(compared.mcnemar_p), "); ", words.summary(compared.summary)),
        ),
        "note",
    )
    folds: list[list[Fold]] = []
    for flips in (compared.gained, compared.lost):
        folds.append([])
        for flip in flips:
            key = (flip.exam, flip.id)
            written = tuple(_written(names[0], first[key])) + tuple(_written(names[1], last[key]))
            chosen = {names[0]: flip.a, names[1]: flip.b}
            folds[-1].append(_flip(f"{flip.exam} {flip.id}", flip.gold, chosen, data.questions.get(key), written))
    yield from _groups(*folds)


def _written(name: Text, row: Mapping[str, Any]) -> Iterator[Quote]:
    if row["generation"]:
        yield Quote(name, row["generation"])
