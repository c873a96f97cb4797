"""A training as it runs: what it works on, and the losses so far."""

import time

from lorachain.app import texts
from lorachain.chain.context import ChainContext
from lorachain.chain.lock import lock_holder
from lorachain.chain.status import chain_status
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Number, Paragraph, Text, Words
from lorachain.report.document.collect import ReportData, collect_training
from lorachain.report.document.sections.curves import curve_section
from lorachain.report.document.sections.overview import chain_section


def state_blocks(context: ChainContext) -> list[Block]:
    """The state of each step, as `lorachain status`. Reads every adapter: not for every second."""
    data = ReportData(context.model, "", list(chain_status(context)), [], [])
    return list(chain_section(data).blocks)


def progress_blocks(context: ChainContext) -> list[Block]:
    """The run that holds the model's lock, its last optimizer step, and the curves of every step. Cheap."""
    data = collect_training(context)
    return [_running(context, data), *curve_section(data).blocks]


def _running(context: ChainContext, data: ReportData) -> Paragraph:
    holder = lock_holder(context.workspace, context.model)
    if holder is None:
        return Paragraph(texts.NOTHING_RUNS, "note")
    words: list[Text | str | Number] = [
        Text("Running: ", "실행 중: "),
        Text(f"step {holder.stage}", f"{holder.stage}단계") if holder.stage else "",
        Text(f" (process {holder.pid}, since {holder.start})", f" (프로세스 {holder.pid}, {holder.start}부터)"),
    ]
    rows = next((stage.losses for stage in data.stages if stage.stage.name == holder.stage), [])
    if rows:
        last = rows[-1]
        words += [
            *(Text("; optimizer step ", "; 최적화 스텝 "), numbers.count(last.step)),
            *(Text(", epoch ", ", 에포크 "), numbers.decimal(last.epoch)),
            *(Text(", loss ", ", 손실 "), numbers.decimal(last.loss, 3)),
            *(Text(", tokens ", ", 토큰 "), numbers.count(last.num_tokens), _age(context, holder.stage)),
        ]
    shown: Words = tuple(words)
    return Paragraph(shown)


def _age(context: ChainContext, stage: str) -> Text:
    try:
        seconds = max(time.time() - context.workspace.loss_log(stage, context.model).stat().st_mtime, 0)
    except OSError:  # removed since it was read
        return Text("", "")
    return Text(f"; {seconds:.0f} s ago", f"; {seconds:.0f}초 전")
