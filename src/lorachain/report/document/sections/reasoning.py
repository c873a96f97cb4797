"""The funnel of written reasoning, and a few samples that were kept and rejected."""

from collections.abc import Iterator

from lorachain.artifacts.reasoning import Funnel
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Fold, Paragraph, Quote, Section, Table, Text, Words
from lorachain.report.document.charts import share_bar
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words

_SHOWN = 3
"""Samples kept, and samples of each check that rejected them."""
_CHECKS = {
    "parsed": "답을 읽을 수 있음",
    "right": "정답을 고름",
    "answer_line": "마지막에 답 한 줄",
    "consistent": "풀이에서 마지막으로 언급한 선지와 답이 같음",
    "finished": "스스로 끝남",
    "length": "길이가 범위 안",
    "repetition": "반복에 빠지지 않음",
    "language": "문항이나 사전의 용어 외에는 한국어",
    "copied": "외국어 용어가 문항이나 사전과 글자까지 같음",
    "leak": "힌트나 주어진 답을 언급하지 않음",
    "held_out": "dev, few-shot, test 문항이 들어 있지 않음",
    "dictionary": "용어 쌍이 사전과 일치",
    "shuffle": "선지 순서를 바꾸어 다시 물어도 매번 정답",
    "support": "답을 뺀 풀이만으로 정답이 가장 그럴듯함",
    "duplicate": "같은 문항의 더 나은 풀이와 거의 같지 않음",
    "surplus": "문항마다 남길 수 안에 듦",
}


def reasoning_section(data: ReportData) -> Section:
    title = Text("Written reasoning", "작성된 풀이")
    report = data.reasoning
    if report is None:
        return Section(
            "reasoning",
            title,
            [
                words.missing(
                    "No reasoning was written for this chain.",
                    "이 체인에는 작성된 풀이가 없습니다.",
                    data.notes.get("reasoning"),
                )
            ],
        )
    total, writer = report.total, report.depends_on.writer
    blocks: list[Block] = [
        Paragraph(
            (
                *(Text("Written by ", "작성 모델: "), f"{writer.model} ({writer.engine} {writer.version}). "),
                *(Text("Samples drawn: ", "작성한 풀이: "), numbers.count(total.drawn)),
                *(
                    Text(" for ", " (문항 "),
                    numbers.count(total.questions),
                    Text(" questions; kept: ", "개); 남긴 풀이: "),
                ),
                *(numbers.count(total.kept), Text(" for ", " (문항 "), numbers.count(total.questions_kept)),
                *(Text(" questions; tokens: ", "개); 토큰: "), numbers.count(total.tokens), "."),
            )
        ),
        Paragraph(
            Text(
                "A sample is kept only where it passes every check, in this order. A right answer alone does not make "
                "its reasoning right.",
                "아래 순서의 모든 검사를 통과한 풀이만 남깁니다. 답이 맞다고 해서 풀이가 맞는 것은 아닙니다.",
            ),
            "note",
        ),
        _funnel_table(total, report.checks),
    ]
    if len(report.per_subject) > 1:
        blocks.append(_subject_table(report.per_subject))
    if skipped := {reason: count for reason, count in report.skipped.items() if count}:
        columns = (Text("reason", "이유"), Text("questions", "문항"))
        rows = [(reason, numbers.count(count)) for reason, count in skipped.items()]
        blocks.append(Table(Text("Questions that nothing was written for", "풀이를 작성하지 않은 문항"), columns, rows))
    if data.samples:
        blocks.append(Paragraph(Text("Samples", "풀이 예"), "title"))
    blocks += _samples(data)
    blocks.append(Paragraph(report.licence, "note"))
    return Section("reasoning", title, blocks)


def _funnel_table(total: Funnel, checks: dict[str, str]) -> Table:
    left = total.drawn
    rows: list[tuple[Words | Cell, ...]] = [_funnel_row(Text("drawn", "작성"), "", None, left, total.drawn)]
    for check, rejected in total.rejected.items():
        left -= rejected
        asked = checks.get(check, "")
        rows.append(_funnel_row(check, Text(asked, _CHECKS.get(check, asked)), rejected, left, total.drawn))
    columns = (
        Text("check", "검사"),
        Text("asks whether", "내용"),
        Text("rejected", "탈락"),
        Text("left", "남음"),
        Text("picture", "그림"),
    )
    return Table(Text("The funnel", "단계별 통과 현황"), columns, rows)


def _funnel_row(check: Words, asked: Words, rejected: int | None, left: int, drawn: int) -> tuple[Words | Cell, ...]:
    shown = "" if rejected is None else numbers.count(rejected)
    return check, asked, shown, numbers.count(left), Cell("", picture=share_bar(left / max(drawn, 1)))


def _subject_table(subjects: dict[str, Funnel]) -> Table:
    columns = (
        Text("subject", "과목"),
        Text("questions", "문항"),
        Text("drawn", "작성"),
        Text("kept", "남음"),
        Text("questions kept", "남은 문항"),
    )
    rows: list[tuple[Words, ...]] = [
        (name, *(numbers.count(n) for n in (part.questions, part.drawn, part.kept, part.questions_kept)))
        for name, part in subjects.items()
    ]
    return Table(Text("By subject", "과목별"), columns, rows)


def _samples(data: ReportData) -> Iterator[Block]:
    if "samples" in data.notes:
        yield words.missing("Samples are not shown:", "풀이를 표시하지 않습니다:", data.notes["samples"])
    kept = [row for row in data.samples if row["kept"]][:_SHOWN]
    seen: dict[str, int] = {}
    rejected = []
    for row in data.samples:
        check = row["rejected_by"]
        if check and seen.setdefault(check, 0) < 1:
            seen[check] += 1
            rejected.append(row)
    for row in (*kept, *rejected):
        verdict = (
            Text("kept", "남김")
            if row["kept"]
            else Text(f"rejected by {row['rejected_by']}", f"{row['rejected_by']} 검사에서 탈락")
        )
        chosen = row["chosen"] or numbers.NOT_MEASURED
        label: Words = (
            verdict,
            ": ",
            row["question"],
            Text(", right ", ", 정답 "),
            row["right"],
            Text(", answered ", ", 답 "),
            chosen,
        )
        yield Fold(label, [Quote(Text("as written", "작성된 그대로"), row["text"])])
