"""The chain as a picture, and what each step changed."""

from collections.abc import Iterator

from markupsafe import Markup

from lorachain.artifacts import Measure, TrainingInfo
from lorachain.artifacts.validation import Proportion
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Chain, Paragraph, Section, Step, Table, Text, Words
from lorachain.report.document.charts import Estimate, interval_strip
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words

CHANCE = 0.2
"""Of five options."""


def chain_section(data: ReportData) -> Section:
    """Every step with its state, the score after it and the next command."""
    steps = [
        Step(
            name=row.stage.name,
            title=words.stage_title(row.stage.name, row.stage.title),
            condition=row.condition,
            state=words.condition(row.condition),
            detail=numbers.proportion(row.score) if row.score else "",
        )
        for row in data.status
    ]
    rows: list[tuple[Words | Cell, ...]] = [
        (
            row.stage.name,
            words.stage_title(row.stage.name, row.stage.title),
            (words.condition(row.condition), f": {row.note}" if row.note else ""),
            numbers.proportion(row.score),
            numbers.when(row.finished),
        )
        for row in data.status
    ]
    blocks: list[Block] = [
        Chain(Text("From the public base to the last step", "공개 베이스부터 마지막 단계까지"), steps),
        Table(
            Text("State of each step", "단계별 상태"),
            (
                Text("step", "단계"),
                Text("what it does", "내용"),
                Text("state", "상태"),
                Text("accuracy (dev)", "정답률 (dev)"),
                Text("finished", "완료 시각"),
            ),
            rows,
        ),
    ]
    upcoming = next((row.next_command for row in data.status if row.next_command), "")
    if upcoming:
        blocks.append(
            Paragraph(
                (Text("The chain is not finished. Next: ", "체인이 아직 끝나지 않았습니다. 다음 명령: "), upcoming),
                "missing",
            )
        )
    blocks += [
        words.missing(f"Step {name} cannot be read:", f"{name}단계를 읽을 수 없습니다:", note)
        for name, note in data.notes.items()
        if name in {row.stage.name for row in data.status}
    ]
    return Section("chain", Text("The chain", "체인"), blocks)


def change_section(data: ReportData) -> Section:
    """Each trained step's measures and exam scores, before and after, with their intervals drawn."""
    blocks: list[Block] = []
    if data.trained:
        pictures = Text(
            "Each picture shows the value with its 95 % interval before the step (hollow, above) and after it (filled, "
            "below). The dashed line is blind chance on five options, 20 %.",
            "각 그림은 단계 전(위, 빈 원)과 단계 후(아래, 채운 원)의 값과 95 % 신뢰구간입니다. 점선은 선지 다섯 개를 "
            "무작위로 고를 때의 20 %입니다.",
        )
        overlap = Text(
            "Where two intervals overlap widely, the step has not been shown to change the measure.",
            "두 구간이 넓게 겹치면 그 단계가 값을 바꾸었다고 볼 수 없습니다.",
        )
        blocks += [Paragraph(pictures, "legend"), Paragraph(overlap, "note")]
    blocks += [_change_table(info) for info in data.trained]
    if not data.trained:
        blocks.append(words.missing("No step has been trained yet.", "아직 학습된 단계가 없습니다."))
    return Section("changes", Text("What each step changed", "단계별 변화"), blocks)


def _change_table(info: TrainingInfo) -> Table:
    rows = [*_measure_rows(info), *_exam_rows(info)]
    facts = info.training
    caption: Words = (
        Text("Step ", ""),
        info.stage,
        Text(": epoch ", "단계: 에포크 "),
        numbers.count(info.validation.epoch_kept),
        Text(" kept, ", " 사용, "),
        numbers.count(facts.optimizer_steps),
        Text(" optimizer steps, ", " 최적화 스텝, "),
        numbers.count(facts.tokens),
        Text(" tokens", " 토큰"),
    )
    columns = (
        Text("measure", "측정"),
        Text("before", "전"),
        Text("after", "후"),
        Text("picture", "그림"),
        Text("after, against chance", "후, 우연 수준과 비교"),
    )
    return Table(caption, columns, rows)


def _measure_rows(info: TrainingInfo) -> Iterator[tuple[Words | Cell, ...]]:
    for name, after in info.measures.after.items():
        before = info.measures.before.get(name)
        picture = measure_picture(before, after)
        label = (words.measure_name(after.name), " (", words.split(after.split), f", v{after.protocol_version})")
        better = () if after.wilson95 else (Text(", lower is better", ", 낮을수록 좋음"),)
        yield (
            (*label, *better),
            numbers.measure(before),
            numbers.measure(after),
            Cell("", picture=picture if after.wilson95 else None),
            "",
        )


def _exam_rows(info: TrainingInfo) -> Iterator[tuple[Words | Cell, ...]]:
    for name, after in info.validation.after.items():
        before = (info.validation.before or {}).get(name)
        yield (
            (Text("exam, ", "시험, "), f"{after.protocol}/{after.protocol_version} ({after.split})"),
            numbers.proportion(before),
            numbers.proportion(after),
            Cell("", picture=score_picture(before, after)),
            words.summary(after.summary),
        )


def measure_picture(before: Measure | None, after: Measure) -> Markup:
    return interval_strip(_of_measure(before), _of_measure(after))


def score_picture(before: Proportion | None, after: Proportion | None) -> Markup:
    """With the accuracy of blind chance."""
    return interval_strip(_of_score(before), _of_score(after), CHANCE)


def _of_measure(measure: Measure | None) -> Estimate | None:
    if measure is None or measure.value is None or measure.wilson95 is None:
        return None
    return Estimate(measure.value, *measure.wilson95)


def _of_score(score: Proportion | None) -> Estimate | None:
    return None if score is None else Estimate(score.accuracy, *score.wilson95)
