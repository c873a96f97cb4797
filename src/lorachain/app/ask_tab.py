"""The tab that asks one or two models a question of one's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from lorachain.app import texts
from lorachain.app.answer_blocks import answers_html
from lorachain.app.answering import Progress
from lorachain.app.bilingual import Labels
from lorachain.app.session import Session
from lorachain.ask.answers import Sampling
from lorachain.ask.forms import check_form, prompts_of_text
from lorachain.errors import LorachainError
from lorachain.redaction import printable
from lorachain.report.document.blocks import Paragraph
from lorachain.report.document.html import render_blocks

MODEL_QUEUE = "model"
"""Events that load a model run one after the other."""
_MOST_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that was answered."""

    question: str
    answers: tuple[Progress, ...]


def build_ask_tab(session: Session, labels: Labels, models: tuple[Any, Any]) -> None:
    with gr.Row(equal_height=True):
        question = labels.make(
            gr.Textbox,
            {"label": texts.QUESTION, "placeholder": texts.QUESTION_EXAMPLE},
            lines=2,
            scale=3,
            elem_id="question",
        )
        form = labels.make(gr.Dropdown, {"label": texts.FORM, "choices": texts.FORMS}, value="", elem_id="form")
    with labels.make(gr.Accordion, {"label": texts.SETTINGS}, open=False), gr.Row():
        temperature = labels.make(gr.Slider, {"label": texts.TEMPERATURE}, minimum=0, maximum=2, step=0.1, value=0)
        seed = labels.make(gr.Number, {"label": texts.SEED}, value=0, minimum=0, precision=0)
        tokens = labels.make(
            gr.Number, {"label": texts.MAX_NEW_TOKENS}, value=0, minimum=0, maximum=_MOST_TOKENS, precision=0
        )
    with gr.Row():
        ask = labels.make(gr.Button, {"value": texts.ASK}, variant="primary", elem_id="ask")
        stop = labels.make(gr.Button, {"value": texts.STOP}, elem_id="stop")
    answers = gr.HTML(elem_id="answers", elem_classes="blocks")
    earlier = gr.State(())

    def answer(
        first: str,
        second: str,
        text: str,
        form: str,
        temperature: float,
        seed: float,
        tokens: float,
        earlier: tuple[Turn, ...],
    ) -> Iterator[tuple[str, tuple[Turn, ...]]]:
        yield from answer_turn(
            session, (first, second), text, form, Sampling(temperature, int(seed), int(tokens) or None), earlier
        )

    inputs = [*models, question, form, temperature, seed, tokens, earlier]
    gr.on(
        [ask.click, question.submit],
        answer,
        inputs,
        [answers, earlier],
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(session.stop, None, None, queue=False, api_visibility="private")


def answer_turn(
    session: Session, names: tuple[str, str], text: str, form: str, sampling: Sampling, earlier: tuple[Turn, ...]
) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """The page's answers and the earlier questions, again and again while the models answer."""
    if not text.strip():
        yield _page((Paragraph(texts.EMPTY_QUESTION, "warning"),), Markup(""), earlier), earlier
        return
    asked = Paragraph(text, "title")
    last: tuple[Progress, ...] = ()
    try:
        form_name = check_form(form or None)
        for last in session.answers(names, lambda encoder: prompts_of_text(text, form_name, encoder), sampling):
            yield _page((asked,), answers_html(last, "answer"), earlier), earlier
    except LorachainError as error:
        warning = Paragraph(str(error), "warning")
        yield _page((asked, warning), answers_html(last, "answer", stopped=True), earlier), earlier
        return
    yield _page((asked,), answers_html(last, "answer", stopped=True), earlier), (*earlier, Turn(text, last))


def _page(above: tuple[Paragraph, ...], answers: Markup, earlier: tuple[Turn, ...]) -> str:
    parts = [render_blocks(above, "asked"), answers]
    if earlier:
        parts.append(render_blocks([Paragraph(texts.EARLIER, "title"), Paragraph(texts.EACH_ALONE, "note")], "earlier"))
    for number, turn in reversed(list(enumerate(earlier))):
        parts.append(_fold(turn, f"turn-{number}"))
    return str(Markup("").join(parts))


def _fold(turn: Turn, prefix: str) -> Markup:
    inside = answers_html(turn.answers, prefix, stopped=True)
    return Markup("<details><summary>{0}</summary>{1}</details>").format(printable(turn.question), inside)
