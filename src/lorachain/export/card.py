"""The model card: what the model was made from, its terms, its scores and its limits."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined

from lorachain.artifacts import Measure, TrainingInfo
from lorachain.artifacts.stages import SourceRecord
from lorachain.artifacts.validation import ProtocolScore
from lorachain.atomic import atomic_write_text
from lorachain.chain.stages import training_stages
from lorachain.evaluation.measures import MEASURES
from lorachain.evaluation.statistics import chance_summary, wilson
from lorachain.evaluation.validation_result import PROTOCOL_VERSIONS
from lorachain.licences import licence_of_source, notice_text, terms_of_base
from lorachain.registry import is_hub_id

Format = Literal["hf", "adapter", "gguf"]
_CONTENTS = {
    "hf": "This directory has the merged weights; `merge_report.json` records how the merge was verified.",
    "adapter": "This directory has all stages as one plain LoRA on the public base; see `compose_report.json`.",
    "gguf": "This directory has the merged weights as GGUF for llama.cpp and Ollama.",
}
_SPLITS = ("dev",)
"""Stages are validated on no other."""
_COUNTS = (
    *("documents", "heldout_documents", "packs", "tokens_per_epoch"),
    *("entries", "questions", "questions_with_reasoning"),
)
"""What the stages count (`StageTask.counts`), but for what was left out."""
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}")
_HASH = re.compile(r"[0-9a-f]{64}")
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
    """The card as Markdown with the hub's YAML header.

    training_info.json may have been edited, so nothing that is free text in it gets into the card: names are those that
    lorachain itself gives, accuracies and intervals are computed from the counts. What has another name is left out,
    and the card says how many such entries there were.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string(files("lorachain.export").joinpath("card.md.jinja").read_text(encoding="utf-8"))
    stages = [info for info in facts.stages if info.stage in {stage.name for stage in training_stages()}]
    scores = [row for info in stages for row in _score_rows(info)]
    return template.render(
        name=facts.name,
        base=facts.base,
        base_is_on_hub=is_hub_id(facts.base),
        auto_class=facts.auto_class,
        relation="adapter" if form == "adapter" else "finetune",
        library=_LIBRARY[form],
        contents=_CONTENTS[form],
        terms=terms_of_base(facts.base),
        scores=[row for row in scores if row is not None],
        left_out=scores.count(None),
        data=[_data_row(info.stage, source) for info in stages for source in info.sources],
        stages=[_training_row(info) for info in stages],
    )


def write_card(folder: Path, facts: CardFacts, form: Format) -> None:
    """`README.md` and `NOTICE`."""
    atomic_write_text(folder / "README.md", render_card(facts, form))
    atomic_write_text(folder / "NOTICE", notice_text(facts.base))


def _score_rows(info: TrainingInfo) -> list[dict[str, str] | None]:
    """One row per protocol and measure, None for one that lorachain does not know; no score without n, interval, split
    and version."""
    exam, measures = info.validation, info.measures
    return [
        *(_exam_row(info.stage, score, (exam.before or {}).get(name)) for name, score in exam.after.items()),
        *(_measure_row(info.stage, measure, measures.before.get(name)) for name, measure in measures.after.items()),
    ]


def _exam_row(stage: str, score: ProtocolScore, before: ProtocolScore | None) -> dict[str, str] | None:
    if not _is_known(score):
        return None
    return {
        "stage": stage,
        "protocol": f"{score.protocol} {score.protocol_version}",
        "split": score.split,
        "n": f"{score.n:,}",
        "before": _accuracy(before) if before is not None and _is_known(before) else "not measured",
        "after": f"{_accuracy(score)}, {chance_summary(score.correct, score.n)}",
    }


def _is_known(score: ProtocolScore) -> bool:
    return (
        score.protocol in PROTOCOL_VERSIONS
        and _VERSION.fullmatch(score.protocol_version) is not None
        and score.split in _SPLITS
        and 0 <= score.correct <= score.n
        and score.n > 0
    )


def _accuracy(score: ProtocolScore) -> str:
    low, high = wilson(score.correct, score.n)
    return f"{100 * score.correct / score.n:.1f} % ({100 * low:.1f} % to {100 * high:.1f} %)"


def _measure_row(stage: str, measure: Measure, before: Measure | None) -> dict[str, str] | None:
    if not _is_known_measure(measure):
        return None
    return {
        "stage": stage,
        "protocol": f"{measure.name} {measure.protocol_version}",
        "split": measure.split,
        "n": f"{measure.n:,} {measure.unit}",
        "before": before.summary if before is not None and _is_known_measure(before) else "not measured",
        "after": measure.summary,
    }


def _is_known_measure(measure: Measure) -> bool:
    kinds = {(kind.name, kind.split, kind.unit) for kind in MEASURES}
    return (measure.name, measure.split, measure.unit) in kinds and _VERSION.fullmatch(
        measure.protocol_version
    ) is not None


def _data_row(stage: str, source: SourceRecord) -> dict[str, str]:
    return {
        "stage": stage,
        "name": _source_name(source),
        "rows": f"{source.rows:,}",
        "licence": licence_of_source(source.name),
        "sha256": source.sha256[:16] if _HASH.fullmatch(source.sha256) else "not known",
    }


def _source_name(source: SourceRecord) -> str:
    """A data set on the hub by its id, local files by their number: a file's name can say anything."""
    if source.kind == "sample":
        return "lorachain's sample"
    if source.kind == "hub":
        repository, _, config = source.name.partition(":")
        known = is_hub_id(repository) and re.fullmatch(r"[\w.-]{0,96}", config, re.ASCII)
        return source.name if known else "a data set on the hub"
    return "a local file" if len(source.files) == 1 else f"{len(source.files):,} local files"


def _training_row(info: TrainingInfo) -> dict[str, str]:
    used = {name: count for name, count in info.counts.items() if name in _COUNTS}
    return {
        "stage": info.stage,
        "steps": f"{info.training.optimizer_steps:,}",
        "tokens": f"{info.training.tokens:,}",
        "trained_on": ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in used.items()),
    }
