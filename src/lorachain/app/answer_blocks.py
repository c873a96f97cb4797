"""Answers of models side by side, and what each gives the options of an exam question."""

from collections.abc import Sequence

from markupsafe import Markup

from lorachain.app import texts
from lorachain.app.answering import Progress
from lorachain.ask.answers import Answered
from lorachain.records import LETTERS, ExamQuestion
from lorachain.report.ask_text import option_scores
from lorachain.report.document.blocks import Block, Cell, Paragraph, Quote, Table, Text, Words
from lorachain.report.document.html import render_blocks

_STATES = {"waiting": texts.WAITING, "loading": texts.LOADING, "answering": texts.ANSWERING}


def answers_html(progress: Sequence[Progress], prefix: str, *, stopped: bool = False) -> Markup:
    """A column for each model.

    Args:
        prefix: what ids begin with, unique in the page.
        stopped: no more will come.
    """
    columns = (
        Markup('<div class="answer">{0}</div>').format(render_blocks(_answer(one, stopped), f"{prefix}-{number}"))
        for number, one in enumerate(progress)
    )
    return Markup('<div class="answers">{0}</div>').format(Markup("").join(columns))


def _answer(progress: Progress, stopped: bool) -> list[Block]:
    blocks: list[Block] = [Paragraph(progress.name, "title")]
    blocks += [Quote(label.rstrip(":：") or texts.ANSWER, text) for label, text in progress.texts]
    if progress.answered is not None:
        blocks.append(Paragraph(timing(progress.answered), "note"))
    else:
        blocks.append(Paragraph(texts.STOPPED if stopped else _STATES[progress.state], "note"))
    return blocks


def timing(answered: Answered) -> Text:
    """How long loading and answering took."""
    load, first, seconds = answered.load_seconds, answered.first_seconds, answered.seconds
    return Text(
        f"loaded in {load:.1f} s, first token after {first:.2f} s, {answered.tokens} tokens in {seconds:.1f} s "
        f"({answered.tokens_per_second:,.1f} tokens/s){'' if answered.complete else ', cut at the limit of tokens'}",
        f"불러오기 {load:.1f}초, 첫 토큰까지 {first:.2f}초, {seconds:.1f}초 동안 {answered.tokens}토큰"
        f"(초당 {answered.tokens_per_second:,.1f}토큰){'' if answered.complete else ', 토큰 수 제한에서 잘림'}",
    )


def options_block(question: ExamQuestion, progress: Sequence[Progress]) -> list[Block]:
    """What each model that has answered gives the options; nothing before the first has."""
    scored = [one.answered for one in progress if one.answered is not None and one.answered.score is not None]
    if not scored:
        return []
    columns: list[Words] = [Text("letter", "글자"), Text("option", "선지"), Text("right", "정답")]
    for answered in scored:
        columns += [(answered.name, Text(": letter", ": 글자")), (answered.name, Text(": text", ": 본문"))]
    rows: list[list[Words | Cell]] = []
    for number, option in enumerate(question.options):
        right = number == question.answer
        row: list[Words | Cell] = [
            LETTERS[number],
            Cell(option, "better-1" if right else ""),
            Text("right answer", "정답") if right else "",
        ]
        for answered in scored:
            row += option_scores(answered, number)
        rows.append(row)
    caption = Text(
        "Probability of each letter, and log-probability (nats) of each option's text; * is the model's choice",
        "글자의 확률과 선지 본문의 로그 확률(nat). *는 모델이 고른 것",
    )
    return [Table(caption, columns, rows)]
