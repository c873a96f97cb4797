"""The model card: what the model was made from, its terms, its scores and its limits."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined

from lorachain.artifacts import TrainingInfo
from lorachain.artifacts.validation import ProtocolScore
from lorachain.atomic import atomic_write_text
from lorachain.evaluation.statistics import chance_summary
from lorachain.licences import licence_of_source, notice_text, terms_of_base
from lorachain.redaction import printable
from lorachain.registry import is_hub_id

Format = Literal["hf", "adapter", "gguf"]
_CONTENTS = {
    "hf": "This directory has the merged weights; `merge_report.json` records how the merge was verified.",
    "adapter": "This directory has all stages as one plain LoRA on the public base; see `compose_report.json`.",
    "gguf": "This directory has the merged weights as GGUF for llama.cpp and Ollama.",
}
_LIBRARY = {"hf": "transformers", "adapter": "peft", "gguf": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts of a card."""

    name: str
    base: str
    """The public base: a hub id, or a name. Never a path of the machine that trained."""
    auto_class: Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"]
    stages: list[TrainingInfo]
    """Of the chain's trained stages, first to last."""


def render_card(facts: CardFacts, form: Format) -> str:
    """The card as Markdown with the hub's YAML header."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string(files("lorachain.export").joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        name=facts.name,
        base=facts.base,
        base_is_on_hub=is_hub_id(facts.base),
        auto_class=facts.auto_class,
        relation="adapter" if form == "adapter" else "finetune",
        library=_LIBRARY[form],
        contents=_CONTENTS[form],
        terms=terms_of_base(facts.base),
        scores=[row for info in facts.stages for row in _score_rows(info)],
        data=[row for info in facts.stages for row in _data_rows(info)],
        stages=[_training_row(info) for info in facts.stages],
    )


def write_card(folder: Path, facts: CardFacts, form: Format) -> None:
    """`README.md` and `NOTICE`."""
    atomic_write_text(folder / "README.md", render_card(facts, form))
    atomic_write_text(folder / "NOTICE", notice_text(facts.base))


def _score_rows(info: TrainingInfo) -> list[dict[str, Any]]:
    """One row per protocol and measure; no score without n, interval, split and version."""
    before = info.validation.before or {}
    rows = [
        {
            "stage": info.stage,
            "protocol": f"{score.protocol} {score.protocol_version}",
            "split": score.split,
            "n": f"{score.n:,}",
            "before": _accuracy(before.get(protocol)),
            # Computed, not taken from the file: a sentence that somebody wrote there does not get into a card.
            "after": f"{_accuracy(score)}, {chance_summary(score.correct, score.n)}",
        }
        for protocol, score in info.validation.after.items()
    ]
    for name, measure in info.measures.after.items():
        earlier = info.measures.before.get(name)
        rows.append(
            {
                "stage": info.stage,
                "protocol": f"{measure.name} {measure.protocol_version}",
                "split": measure.split,
                "n": f"{measure.n:,} {measure.unit}",
                "before": earlier.summary if earlier else "not measured",
                "after": measure.summary,
            }
        )
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def _accuracy(score: ProtocolScore | None) -> str:
    if score is None:
        return "not measured"
    low, high = score.wilson95
    return f"{100 * score.accuracy:.1f} % ({100 * low:.1f} % to {100 * high:.1f} %)"


def _data_rows(info: TrainingInfo) -> list[dict[str, Any]]:
    return [
        {
            "stage": info.stage,
            # A local source by its last part only: the card is for others.
            "name": _cell(source.name if source.kind != "local" else Path(source.name).name),
            "rows": f"{source.rows:,}",
            "licence": licence_of_source(source.name),
            "sha256": _cell(source.sha256[:16]),
        }
        for source in info.sources
    ]


def _training_row(info: TrainingInfo) -> dict[str, Any]:
    used = {name: count for name, count in info.counts.items() if not name.endswith("left_out")}
    return {
        "stage": _cell(info.stage),
        "steps": f"{info.training.optimizer_steps:,}",
        "tokens": f"{info.training.tokens:,}",
        "trained_on": ", ".join(f"{count:,} {_cell(name.replace('_', ' '))}" for name, count in used.items()),
    }


def _cell(text: str) -> str:
    """Text that stays within a Markdown table's cell, without HTML, links and control characters."""
    text = printable(text.replace("\\", "\\\\").replace("\n", " "))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("|", "\\|").replace("](", "]\\(")
