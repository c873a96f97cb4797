"""The tab that browses the exam: the questions gained and lost, both answers, and the question to any model again."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from markupsafe import Markup

from lorachain.app import browsing, texts
from lorachain.app.answer_blocks import answers_html, options_block
from lorachain.app.answering import Progress
from lorachain.app.ask_tab import MODEL_QUEUE
from lorachain.app.bilingual import Labels
from lorachain.app.browsing import Exams
from lorachain.app.session import Session
from lorachain.ask.answers import Sampling
from lorachain.ask.forms import prompts_of_question
from lorachain.errors import LorachainError
from lorachain.report.document.asked import AskedQuestion
from lorachain.report.document.blocks import Language, Paragraph
from lorachain.report.document.html import render_blocks

_FIRST = "gained"


def build_exam_tab(page: Any, session: Session, labels: Labels, models: tuple[Any, Any], language: Any) -> None:
    exams = gr.State(browsing.NO_EXAMS)
    with gr.Row():
        comparison = labels.make(gr.Dropdown, {"label": texts.COMPARISON}, choices=[], elem_id="comparison")
        outcome = labels.make(gr.Dropdown, {"label": texts.SHOWN}, choices=[_FIRST], value=_FIRST, elem_id="outcome")
        chosen = labels.make(gr.Dropdown, {"label": texts.ONE_QUESTION}, choices=[], scale=2, elem_id="exam-question")
    with gr.Row():
        previous = labels.make(gr.Button, {"value": texts.PREVIOUS}, size="sm", elem_id="previous")
        following = labels.make(gr.Button, {"value": texts.NEXT}, size="sm", elem_id="next")
        refresh = labels.make(gr.Button, {"value": texts.REFRESH}, size="sm", elem_id="refresh-exam")
    shown = gr.HTML(elem_id="exam-shown", elem_classes="blocks")
    with gr.Row():
        explain = labels.make(gr.Checkbox, {"label": texts.EXPLAIN}, value=False)
        ask = labels.make(gr.Button, {"value": texts.ASK_QUESTION}, variant="primary", elem_id="ask-exam")
        stop = labels.make(gr.Button, {"value": texts.STOP})
    answers = gr.HTML(elem_id="exam-answers", elem_classes="blocks")

    def load(language: Language) -> tuple[Any, ...]:
        try:
            loaded = browsing.load_exams(session.context, session.results)
        except LorachainError as error:
            warning = render_blocks([Paragraph(str(error), "warning")], "exam")
            return browsing.NO_EXAMS, *([gr.update()] * 3), str(warning), ""
        key = next(reversed(loaded.by_key), None)
        choices = browsing.in_language(browsing.comparison_choices(loaded), language)
        return loaded, gr.update(choices=choices, value=key), *list_questions(loaded, key, _FIRST, language)

    def list_questions(exams: Exams, key: str | None, outcome: str, language: Language) -> tuple[Any, ...]:
        exam = exams.by_key.get(key or "")
        outcomes = browsing.in_language(browsing.outcome_choices(exam), language)
        questions = browsing.question_choices(exam, outcome)
        first = questions[0][1] if questions else None
        updates = gr.update(choices=outcomes, value=outcome), gr.update(choices=questions, value=first)
        return *updates, *show(exams, key, first)

    def show(exams: Exams, key: str | None, question: str | None) -> tuple[str, str]:
        exam = exams.by_key.get(key or "")
        return str(render_blocks(browsing.question_blocks(exams, exam, question), "exam")), ""

    def move(by: int) -> Any:
        def moved(exams: Exams, key: str | None, outcome: str, question: str | None) -> str | None:
            return browsing.neighbor(exams.by_key.get(key or ""), outcome, question, by)

        return moved

    def in_language(exams: Exams, key: str | None, outcome: str, language: Language) -> tuple[Any, Any]:
        """With their values: Gradio shows the text of a new choice only when the value is set as well."""
        choices = browsing.in_language(browsing.comparison_choices(exams), language)
        outcomes = browsing.in_language(browsing.outcome_choices(exams.by_key.get(key or "")), language)
        return gr.update(choices=choices, value=key), gr.update(choices=outcomes, value=outcome)

    def answer(
        exams: Exams, key: str | None, question: str | None, explain: bool, first: str, second: str
    ) -> Iterator[str]:
        asked = browsing.find_asked(exams.by_key.get(key or ""), question)
        yield from answer_question(session, asked, (first, second), explain=explain)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    everything = [exams, comparison, outcome, chosen, shown, answers]
    refresh.click(load, language, everything, **quiet)
    listed = [outcome, chosen, shown, answers]
    for changed in (comparison, outcome):
        changed.input(list_questions, [exams, comparison, outcome, language], listed, **quiet)
    chosen.change(show, [exams, comparison, chosen], [shown, answers], **quiet)
    for button, by in ((previous, -1), (following, 1)):
        button.click(move(by), [exams, comparison, outcome, chosen], chosen, **quiet)
    language.change(in_language, [exams, comparison, outcome, language], [comparison, outcome], **quiet)
    ask.click(
        answer,
        [exams, comparison, chosen, explain, *models],
        answers,
        concurrency_id=MODEL_QUEUE,
        concurrency_limit=1,
        **quiet,
    )
    stop.click(session.stop, None, None, queue=False, api_visibility="private")
    page.load(load, language, everything, **quiet)


def answer_question(
    session: Session, asked: AskedQuestion | None, names: tuple[str, str], *, explain: bool
) -> Iterator[str]:
    """The models' answers to a question of the exam, and at the end what each gives its options."""
    question = asked.question if asked is not None else None
    if question is None:
        yield str(render_blocks([Paragraph(texts.NO_TEXT, "warning")], "asked-exam"))
        return
    last: tuple[Progress, ...] = ()
    try:
        for last in session.answers(
            names, lambda encoder: prompts_of_question(question, encoder, explain=explain), Sampling(), question
        ):
            yield str(answers_html(last, "exam-answer"))
    except LorachainError as error:
        warning = render_blocks([Paragraph(str(error), "warning")], "asked-exam")
        yield str(Markup("").join([warning, answers_html(last, "exam-answer", stopped=True)]))
        return
    options = render_blocks(options_block(question, last), "exam-options")
    yield str(Markup("").join([answers_html(last, "exam-answer", stopped=True), options]))
