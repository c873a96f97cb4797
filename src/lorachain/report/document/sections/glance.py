"""The chain in a few lines, for a reader who reads nothing else."""

from typing import Literal

from lorachain.artifacts import Ledger, Measure
from lorachain.artifacts.ledger import LedgerStep
from lorachain.artifacts.validation import Proportion
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Inline, Paragraph, Section, Table, Text, Words, parts
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words
from lorachain.report.document.sections.overview import measure_picture, score_picture
from lorachain.report.ledger_table import ledger_measures

_QUESTIONS = {
    "perplexity": Text(
        "Does step 00 predict held-out Korean medical text better? (perplexity, lower is better)",
        "00단계는 학습에 쓰지 않은 한국어 의학 텍스트를 더 잘 예측하는가? (퍼플렉서티, 낮을수록 좋음)",
    ),
    "exact match": Text(
        "Does step 01 know the dictionary? (exact match)", "01단계는 사전의 내용을 아는가? (완전 일치율)"
    ),
    "explained accuracy": Text(
        "Does step 02 answer exam questions after reasoning?", "02단계는 풀이를 쓴 뒤 시험 문항에 답하는가?"
    ),
}


_LEGEND = Text(
    "Pictures: hollow circle, before; filled circle, after; each with its 95 % interval. Dashed line: blind guessing "
    "among five options, 20 %.",
    "그림: 빈 원은 전, 채운 원은 후이며 가로선은 95 % 신뢰구간입니다. 점선은 선지 다섯 개를 무작위로 고를 때의 "
    "20 %입니다.",
)
_WORDS = Text("The last section explains the words.", "용어는 마지막 절에서 설명합니다.")


def glance_section(data: ReportData) -> Section:
    """Before and after by each step's own measure, the exam against the base, what was lost, and the merge."""
    rows: list[tuple[Words | Cell, ...]] = []
    for info in data.trained:
        for name, after in info.measures.after.items():
            if after.name in _QUESTIONS:
                before = info.measures.before.get(name)
                picture = measure_picture(before, after) if after.wilson95 else None
                verdict = Cell(_change(before, after), picture=picture)
                rows.append((_QUESTIONS[after.name], numbers.measure(before), numbers.measure(after), verdict))
    rows += _exam(data)
    rows += _lost(data)
    if data.merge_report is not None and data.merge_report.probe is not None:
        agree = numbers.percent(data.merge_report.probe.letter_agreement)
        question = Text("Does the merged model answer as the adapter did?", "병합한 모델은 어댑터와 같은 답을 하는가?")
        rows.append((question, "", (agree, Text(" of the probe's answers", " (확인용 문항의 답)")), ""))
    title = Text("At a glance", "한눈에 보기")
    if not rows:
        missing = words.missing("No step has been trained yet.", "아직 학습된 단계가 없습니다.")
        return Section("glance", title, [missing])
    columns = (Text("question", "질문"), Text("before", "전"), Text("after", "후"), Text("verdict", "판정"))
    blocks: list[Block] = [
        *_in_a_sentence(data),
        Table(Text("What the chain changed", "체인이 바꾼 것"), columns, rows),
        Paragraph(_LEGEND, "legend"),
        Paragraph(_WORDS, "note"),
    ]
    return Section("glance", title, blocks)


def _change(before: Measure | None, after: Measure) -> Text | str:
    """Whether the measure has moved, as far as that can be said without a test."""
    if before is None or before.value is None or after.value is None:
        return ""
    if before.wilson95 is None or after.wilson95 is None:
        if after.value == before.value:
            return Text("unchanged", "변화 없음")
        lower = after.value < before.value
        return Text(
            f"{'lower' if lower else 'higher'}; not tested for significance",
            f"{'낮아짐' if lower else '높아짐'}; 유의성은 검정하지 않음",
        )
    if after.wilson95[0] > before.wilson95[1]:
        return Text("higher; the intervals do not overlap", "높아짐; 두 구간이 겹치지 않음")
    if after.wilson95[1] < before.wilson95[0]:
        return Text("lower; the intervals do not overlap", "낮아짐; 두 구간이 겹치지 않음")
    return Text("the intervals overlap: no clear change", "두 구간이 겹침: 뚜렷한 변화 없음")


def _in_a_sentence(data: ReportData) -> list[Block]:
    """The exam before and after, for a reader who does not know the steps."""
    kept, start, last = data.kept_score(), data.start_score(), data.last
    if kept is None or start is None or last is None:
        return []
    protocol = last.validation.selected_by
    after, before = kept.result.protocols.get(protocol), start[1].result.protocols.get(protocol)
    if after is None or before is None:
        return []
    compared = kept.compared_with.get(start[0], {}).get(protocol)
    exams = ", ".join(after.per_exam)
    first = {
        "base model": Text("The public base", "공개 베이스는"),
        "stage start": Text(f"The start of step {kept.stage}", f"{kept.stage}단계의 시작은"),
    }[start[0]]
    sentence: tuple[Inline, ...] = (
        *(Text(f"{first.en} answers ", f"{first.ko} {exams} dev 문항을 "), *_share(before)),
        *(Text(f" dev questions of {exams} correctly; after step ", " 맞히고, "), kept.stage),
        *(Text(" the model answers ", "단계 후의 모델은 "), *_share(after), Text(": ", " 맞힙니다: ")),
    )
    verdict = words.summary(compared.summary) if compared else words.summary(after.summary)
    end = Text(". Blind guessing among five options gives 20 %.", ". 선지 다섯 개를 무작위로 고르면 20 %입니다.")
    return [Paragraph((*sentence, verdict, end))]


def _share(score: Proportion) -> tuple[Inline, ...]:
    """`23 of 80 (28.7 %)`."""
    return (
        *(numbers.count(score.correct), Text(" of ", " / "), numbers.count(score.n)),
        *(" (", numbers.percent(score.accuracy), ")"),
    )


def _exam(data: ReportData) -> list[tuple[Words | Cell, ...]]:
    kept, start, last = data.kept_score(), data.start_score(), data.last
    if kept is None or start is None or last is None:
        return []
    protocol = last.validation.selected_by
    after, before = kept.result.protocols.get(protocol), start[1].result.protocols.get(protocol)
    if after is None:
        return []
    compared = kept.compared_with.get(start[0], {}).get(protocol)
    than = Text("the base", "베이스") if start[0] == "base model" else Text("its start", "단계 시작")
    question: Words = (
        Text(
            f"Does step {kept.stage} answer the exam better than {than.en}?",
            f"{kept.stage}단계는 {than.ko}보다 시험을 잘 푸는가?",
        ),
        f" ({protocol}, {after.split})",
    )
    verdict: Words = words.summary(compared.summary) if compared else ""
    chance: Words = words.summary(after.summary)
    shown: tuple[Inline, ...] = (*parts(verdict), "; ", *parts(chance)) if compared else parts(chance)
    drawn = Cell(shown, picture=score_picture(before, after))
    return [(question, numbers.proportion(before), numbers.proportion(after), drawn)]


def _lost(data: ReportData) -> list[tuple[Words | Cell, ...]]:
    """Measures by which the last measured step is significantly worse than the base, and than the step before it."""
    view = data.ledger
    if view is None or len(view.ledger.steps) < 2:
        return []
    step = view.ledger.steps[-1]
    rows = [_worse(view.ledger, step, "base", Text("the base", "베이스"))]
    if step.parent not in (None, "base"):
        before = Text(f"the step before it ({step.parent})", f"앞 단계({step.parent})")
        rows.append(_worse(view.ledger, step, "parent", before))
    return rows


def _worse(
    ledger: Ledger, step: LedgerStep, against: Literal["base", "parent"], other: Text
) -> tuple[Words | Cell, ...]:
    worse = [
        measure
        for measure in ledger_measures(ledger)
        if (cell := step.cell(measure)) and (change := cell.against.get(against)) and change.verdict == "worse"
    ]
    question = Text(
        f"Is step {step.name} significantly worse than {other.en} by any measure?",
        f"{step.name}단계가 {other.ko}보다 유의하게 나빠진 측정이 있는가?",
    )
    names = [part for measure in worse for part in ("; ", words.ledger_measure(measure))][1:]
    tested = sum(against in cell.against for cell in step.cells)
    count: Words = (numbers.count(len(worse)), Text(" of ", " / "), numbers.count(tested), Text(" measures", "개 측정"))
    return question, "", count, tuple(names) or Text("none", "없음")
