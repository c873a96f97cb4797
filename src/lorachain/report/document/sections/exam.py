"""Exam results by subject, and the questions gained and lost to browse."""

from collections.abc import Iterator

from lorachain.artifacts import EvalResult, ValidationResult
from lorachain.artifacts.validation import Proportion
from lorachain.report.document import numbers
from lorachain.report.document.asked import (
    STARTS,
    AskedExam,
    asked_blocks,
    asked_summary,
    between,
    evaluated_exam,
    validated_exam,
)
from lorachain.report.document.blocks import (
    Block,
    Cell,
    Fold,
    Paragraph,
    Section,
    Table,
    Text,
    Words,
    parts,
)
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words
from lorachain.report.document.sections.overview import score_picture

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
        name = STARTS[start[0]] if start else Text("before", "전")
        blocks.append(
            Paragraph(
                Text(
                    "Scores are on the dev split. The epoch of the last step may have been chosen on these questions, "
                    "so "
                    "its score is an optimistic one. “letters” reads the most likely letter; “options” the most likely "
                    "text of an option.",
                    "점수는 dev 분할의 것입니다. 마지막 단계의 에포크를 이 문항들로 골랐을 수 있으므로 그 점수는 조금 "
                    "높게 나올 수 "
                    "있습니다. “letters”는 가장 그럴듯한 글자, “options”는 가장 그럴듯한 선지 본문을 답으로 읽습니다.",
                ),
                "note",
            )
        )
        for protocol in kept.result.protocols:
            blocks.append(_subject_table(protocol, kept.stage, kept.result, before, name))
            if start and (compared := kept.compared_with.get(start[0], {}).get(protocol)):
                line: Words = (
                    *between(kept.stage, name),
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
    validated, evaluated = validated_exam(data), evaluated_exam(data)
    if validated is not None:
        blocks.append(Paragraph(validated.title, "note"))
        if not data.questions:
            blocks.append(
                words.missing(
                    "The questions' texts are not shown:",
                    "문항의 본문은 표시하지 않습니다:",
                    data.notes.get("questions"),
                )
            )
        blocks += _flips(validated)
    elif data.kept_score() is not None:
        blocks.append(
            words.missing(
                "No earlier model was validated on the same questions.", "같은 문항으로 검증한 앞 모델이 없습니다."
            )
        )
    else:
        blocks.append(words.missing("Nothing has been validated yet.", "아직 검증한 결과가 없습니다."))
    if data.results.not_compared:
        blocks.append(
            words.missing("The results are not compared:", "결과를 비교하지 않습니다:", data.results.not_compared)
        )
    if evaluated is not None:
        blocks += [Paragraph(evaluated.title, "note"), *_flips(evaluated)]
    return Section("flips", title, blocks)


def _subject_table(
    protocol: str, stage: str, after: ValidationResult, before: ValidationResult | None, start: Text
) -> Table:
    score = after.protocols[protocol]
    earlier = before.protocols.get(protocol) if before else None
    rows: list[tuple[Words | Cell, ...]] = [_score_row(Text("all", "전체"), earlier, score)]
    groups = []
    if len(score.per_subject) > 1:
        groups.append((score.per_subject, earlier.per_subject if earlier else {}))
    if len(score.per_exam) > 1:
        groups.insert(0, (score.per_exam, earlier.per_exam if earlier else {}))
    for now, then in groups:
        rows += [_score_row(subject, then.get(subject), part) for subject, part in now.items()]
    caption: Words = (
        Text("Step ", ""),
        stage,
        Text(", ", "단계, "),
        f"{', '.join(score.per_exam)}, {protocol}/{score.protocol_version} ({score.split}); ",
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


def _flips(exam: AskedExam) -> Iterator[Block]:
    for title, questions in (
        (Text("Gained", "새로 맞힘"), exam.of("gained")),
        (Text("Lost", "틀리게 됨"), exam.of("lost")),
    ):
        yield Paragraph((title, ": ", numbers.count(len(questions))), "title")
        for asked in questions[:_MOST]:
            yield Fold(asked_summary(asked, exam.models), asked_blocks(asked, exam.models))
        if len(questions) > _MOST:
            yield words.missing(f"Only the first {_MOST} are shown.", f"처음 {_MOST}개만 표시합니다.")
