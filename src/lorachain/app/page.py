"""The page: models and language above three tabs."""

from typing import Any

import gradio as gr
from markupsafe import Markup

from lorachain.app import texts
from lorachain.app.ask_tab import build_ask_tab
from lorachain.app.bilingual import Labels
from lorachain.app.exam_tab import build_exam_tab
from lorachain.app.session import Session
from lorachain.app.training_tab import build_training_tab
from lorachain.report.document.blocks import Language, Paragraph, Text
from lorachain.report.document.html import render_blocks


def build_page(session: Session, language: Language) -> Any:
    """The page as Gradio blocks, without telemetry."""
    labels = Labels(language)
    with gr.Blocks(title=f"lorachain: {session.context.model}", analytics_enabled=False) as page:
        with gr.Row(elem_id="top"):
            title = Markup("<h1>lorachain: {0}</h1>").format(session.context.model)
            gr.HTML(str(title), elem_classes="blocks")
            switch = gr.Radio(
                [("한국어", "ko"), ("English", "en")],
                value=language,
                label="Language / 언어",
                show_label=False,
                container=False,
                elem_id="language",
            )
        gr.HTML(str(render_blocks([Paragraph(texts.NOTICE, "warning")], "notice")), elem_classes="blocks")
        models = _model_pickers(page, session, labels)
        with gr.Tabs():
            with _tab(labels, texts.ASK_TAB, "ask-tab"):
                build_ask_tab(session, labels, models)
            with _tab(labels, texts.EXAM_TAB, "exam-tab"):
                build_exam_tab(page, session, labels, models, switch)
            with _tab(labels, texts.TRAINING_TAB, "training-tab"):
                build_training_tab(page, session, labels)
        switch.change(labels.updates, switch, labels.components, show_progress="hidden", api_visibility="private")
    return page


def _tab(labels: Labels, title: Text, name: str) -> Any:
    return labels.make(gr.Tab, {"label": title}, id=name, elem_id=name)


def _model_pickers(page: Any, session: Session, labels: Labels) -> tuple[Any, Any]:
    """The two models that every tab asks. Opening the page again offers the stages that were finished meanwhile."""

    def offered() -> tuple[dict[str, Any], dict[str, Any]]:
        names = session.model_names()
        first, second = session.default_models()
        return {"choices": names, "value": first}, {"choices": [("–", ""), *names], "value": second}

    of_a, of_b = offered()
    with gr.Row():
        model_a = labels.make(gr.Dropdown, {"label": texts.MODEL_A}, elem_id="model-a", **of_a)
        model_b = labels.make(gr.Dropdown, {"label": texts.MODEL_B}, elem_id="model-b", **of_b)

    def updates() -> list[Any]:
        return [gr.update(**options) for options in offered()]

    page.load(updates, None, [model_a, model_b], show_progress="hidden", api_visibility="private")
    return model_a, model_b
