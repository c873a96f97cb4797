"""Loss and learning rate of each training stage."""

from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Figure, Figures, Section, Text, Words, parts
from lorachain.report.document.charts import Curve, line_chart, loss_curves
from lorachain.report.document.collect import ReportData, StageData
from lorachain.report.document.sections import words

_LOSS = Text("loss (nats per supervised token)", "손실 (학습 토큰당 nat)")
_RATE = Text("learning rate", "학습률")


def curve_section(data: ReportData) -> Section:
    """The recorded loss of finished stages; of a running one, what `losses.csv` has so far."""
    losses = [figure for stage in data.stages if (figure := _loss_figure(stage)) is not None]
    rates = [figure for stage in data.stages if (figure := _rate_figure(stage)) is not None]
    blocks: list[Block] = []
    if losses:
        blocks.append(Figures(losses))
    else:
        blocks.append(words.missing("No step has been trained yet.", "아직 학습된 단계가 없습니다."))
    if rates:
        blocks.append(Figures(rates))
    without = [stage.stage.name for stage in data.stages if stage.info is not None and not stage.losses]
    if without:
        blocks.append(
            words.missing(
                f"The learning rate of {', '.join(without)} is not shown: an older version, which writes no "
                "losses.csv, trained it.",
                f"{', '.join(without)}단계의 학습률은 표시하지 않습니다. losses.csv를 남기지 않는 이전 버전으로 "
                "학습했습니다.",
            )
        )
    blocks += [
        words.missing(f"{part} cannot be shown:", f"{part}을(를) 표시할 수 없습니다:", note)
        for part, note in data.notes.items()
        if part.startswith("losses ")
    ]
    return Section("curves", Text("Training", "학습 곡선"), blocks)


def _loss_figure(stage: StageData) -> Figure | None:
    if stage.info is not None:
        losses = stage.info.training.losses
        steps = list(range(1, len(losses) + 1))
        total = stage.info.training.optimizer_steps
        ending: Words = (
            Text("first ", "처음 "),
            numbers.decimal(stage.info.training.loss_first, 3),
            Text(", mean of the last tenth ", ", 마지막 10분의 1 평균 "),
            numbers.decimal(stage.info.training.loss_last_tenth, 3),
        )
    else:
        losses = tuple(row.loss for row in stage.losses)
        steps = [row.step for row in stage.losses]
        total = steps[-1] if steps else 0
        ending = Text("the step is not finished", "단계가 끝나지 않음")
    if not losses:
        return None
    caption: Words = (Text("Step ", ""), stage.stage.name, Text(": ", "단계: "), *parts(ending))
    return Figure(caption, line_chart(loss_curves(steps, losses), _LOSS, steps=total))


def _rate_figure(stage: StageData) -> Figure | None:
    if not stage.losses:
        return None
    steps = [row.step for row in stage.losses]
    rates = [row.learning_rate for row in stage.losses]
    caption: Words = (
        Text("Step ", ""),
        stage.stage.name,
        Text(": learning rate, at most ", "단계: 학습률, 최대 "),
        numbers.scientific(max(rates)),
    )
    return Figure(caption, line_chart([Curve(steps, rates, "rate")], _RATE, height=120, steps=steps[-1]))
