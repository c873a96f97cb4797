"""The tab that watches a training."""

from typing import Any

import gradio as gr

from lorachain.app import texts
from lorachain.app.bilingual import Labels
from lorachain.app.session import Session
from lorachain.app.watching import progress_blocks, state_blocks
from lorachain.report.document.html import render_blocks

SECONDS = 3.0
"""Between two readings of the losses."""


def build_training_tab(page: Any, session: Session, labels: Labels) -> None:
    refresh = labels.make(gr.Button, {"value": texts.REFRESH}, size="sm", elem_id="refresh-training")
    progress = gr.HTML(elem_id="progress", elem_classes="blocks")
    state = gr.HTML(elem_id="state", elem_classes="blocks")

    shown = gr.State("")

    def read_progress(shown: str) -> tuple[Any, str]:
        """What is shown already is not sent again, so that nothing flickers where nothing is trained."""
        html = str(render_blocks(progress_blocks(session.context), "progress"))
        return (gr.skip() if html == shown else html), html

    def read_state() -> str:
        return str(render_blocks(state_blocks(session.context), "state"))

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([page.load, refresh.click, gr.Timer(SECONDS).tick], read_progress, shown, [progress, shown], **quiet)
    gr.on([page.load, refresh.click], read_state, None, state, **quiet)
