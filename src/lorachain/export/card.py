"""The model card: what the model is made from, under which terms, how it scores, and what it is not for."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined

from lorachain.errors import WorkspaceError
from lorachain.export.licences import licence_of_source, notice_text, terms_of_base
from lorachain.provenance import TRAINING_INFO, read_json
from lorachain.workspace import atomic_write_text

Format = Literal["hf", "adapter", "gguf"]
_CONTENTS = {
    "hf": "This folder holds the merged weights; `merge_report.json` is the proof of the merge.",
    "adapter": "This folder holds all stages as one plain LoRA on the public base; see `compose_report.json`.",
    "gguf": "This folder holds the merged weights as GGUF for llama.cpp and Ollama.",
}
_LIBRARY = {"hf": "transformers", "adapter": "peft", "gguf": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is written from."""

    name: str
    base: str
    """The public base: a hub id, or a name. Never a path of the machine that trained."""
    auto_class: Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"]
    stages: list[dict[str, Any]]
    """`training_info.json` of the chain's trained stages, first to last."""


def read_stage_infos(trained: Sequence[Path]) -> list[dict[str, Any]]:
    """The `training_info.json` of each trained folder, in the order given.

    Raises:
        WorkspaceError: one is missing or broken, or there are none.
    """
    if not trained:
        raise WorkspaceError("no trained stage to write a model card from; train a stage first (`lorachain run`)")
    return [read_json(folder / TRAINING_INFO) for folder in trained]


def render_card(facts: CardFacts, form: Format) -> str:
    """The card as Markdown with the hub's YAML header."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string(files("lorachain.export").joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        name=facts.name,
        base=facts.base,
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


def _score_rows(info: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a protocol; a score never stands without n, interval, split and the protocol's version."""
    validation = info.get("validation") or {}
    before, after = validation.get("before") or {}, validation.get("after") or {}
    return [
        {
            "stage": info["stage"],
            "protocol": f"{found['protocol']} {found['version']}",
            "split": found["split"],
            "n": f"{found['n']:,}",
            "before": _accuracy(before.get(protocol)),
            "after": _accuracy(found),
        }
        for protocol, found in after.items()
    ]


def _accuracy(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    low, high = found["wilson95"]
    return f"{found['accuracy']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")


def _data_rows(info: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "stage": info["stage"],
            # A local source by its last part only: the card is for others.
            "name": _cell(source["name"] if source["kind"] != "local" else Path(source["name"]).name),
            "rows": f"{source['rows']:,}",
            "licence": licence_of_source(source["name"]),
            "sha256": source["sha256"][:16],
        }
        for source in info.get("sources", [])
    ]


def _training_row(info: dict[str, Any]) -> dict[str, Any]:
    training = info.get("training", {})
    return {
        "stage": info["stage"],
        "steps": f"{training.get('optimizer_steps', 0):,}",
        "tokens": f"{training.get('tokens', 0):,}",
    }


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table's cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
