"""The model card: what the model was made from, its terms, its scores and its limits."""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index
from jinja2 import Environment, StrictUndefined

from lorachain.artifacts import Measure, TrainingInfo
from lorachain.artifacts.stages import SourceRecord
from lorachain.artifacts.validation import ProtocolScore
from lorachain.atomic import atomic_write_text
from lorachain.chain.stages import training_stages
from lorachain.errors import ConfigError
from lorachain.evaluation.measures import MEASURES
from lorachain.evaluation.statistics import chance_summary
from lorachain.evaluation.validation_result import PROTOCOL_VERSIONS
from lorachain.export.professions import KORMEDMCQA, ProfessionRow, percent
from lorachain.licences import licence_of_source, notice_text, terms_of_base
from lorachain.registry import is_hub_id

Form = Literal["hf", "adapter", "gguf", "ollama", "vllm"]
FORMS: tuple[Form, ...] = ("hf", "adapter", "gguf", "ollama", "vllm")
KOREAN_CARD = "README.ko.md"
_CONTENTS = {
    "hf": "This repository has the merged weights; `merge_report.json` records how the merge was verified.",
    "adapter": "This repository has all stages as one plain LoRA on the public base.",
    "gguf": "This repository has the merged weights as GGUF for llama.cpp and Ollama.",
}
_CONTENTS_KO = {
    "hf": "병합된 가중치입니다. 병합을 어떻게 검증했는지는 `merge_report.json`에 있습니다.",
    "adapter": "모든 단계를 공개 베이스 위의 LoRA 하나로 합친 어댑터입니다.",
    "gguf": "병합된 가중치를 llama.cpp와 Ollama에서 쓰는 GGUF로 변환한 것입니다.",
}
_CHANCE_KO = {
    "above chance": "무작위 수준보다 높음",
    "below chance": "무작위 수준보다 낮음",
    "not significantly different from chance": "무작위 수준과 유의한 차이 없음",
}
_LIKE: dict[Form, str] = {"hf": "hf", "vllm": "hf", "adapter": "adapter", "gguf": "gguf", "ollama": "gguf"}
"""What a form has: `vllm` is `hf`, and `ollama` is `gguf`, with how to serve it."""
_SPLITS = ("dev",)
"""Stages are validated on no other."""
_COUNTS = (
    *("documents", "heldout_documents", "packs", "tokens_per_epoch"),
    *("entries", "questions", "questions_with_reasoning"),
)
"""What the stages count (`StageTask.counts`), but for what was left out."""
_COUNTS_KO = {
    "documents": "문서",
    "heldout_documents": "평가용 문서",
    "packs": "팩",
    "tokens_per_epoch": "에포크당 토큰",
    "entries": "표제어",
    "questions": "문항",
    "questions_with_reasoning": "풀이가 있는 문항",
}
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LIBRARY = {"hf": "transformers", "adapter": "peft", "gguf": "llama.cpp"}


def check_form(form: str) -> str:
    """Raises ConfigError unless `form` is one of `FORMS`."""
    if form not in FORMS:
        raise ConfigError(f"--format is {form!r}; allowed: {', '.join(FORMS)}")
    return form


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The facts of a card."""

    name: str
    base: str
    """The public base: a hub id, or a name. Never a path of the machine that trained."""
    auto_class: Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"]
    stages: list[TrainingInfo]
    """Of the chain's trained stages, first to last."""
    professions: tuple[ProfessionRow, ...] = ()
    chat: bool = True
    """Whether the base has a chat template, in whose turns the model was trained."""


def render_card(facts: CardFacts, form: Form, *, korean: bool = False) -> str:
    """The card as Markdown; the English one, which the hub reads, has its YAML header.

    training_info.json may have been edited, so nothing that is free text in it gets into the card: names are those that
    lorachain itself gives, accuracies and intervals are computed from the counts. What has another name is left out,
    and the card says how many such entries there were.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    source = files("lorachain.export").joinpath("card.ko.md.jinja" if korean else "card.md.jinja")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    stages = [info for info in facts.stages if info.stage in {stage.name for stage in training_stages()}]
    scores = [row for info in stages for row in _score_rows(info)]
    like = _LIKE[form]
    return template.render(
        name=facts.name,
        base=facts.base,
        base_is_on_hub=is_hub_id(facts.base),
        auto_class=facts.auto_class,
        relation="adapter" if form == "adapter" else "finetune",
        library=_LIBRARY[like],
        contents=(_CONTENTS_KO if korean else _CONTENTS)[like],
        model_index=model_index(facts),
        professions=facts.professions,
        korean_card=KOREAN_CARD,
        in_korean=_in_korean,
        terms=terms_of_base(facts.base),
        scores=[row for row in scores if row is not None],
        left_out=scores.count(None),
        data=[_data_row(info.stage, source) for info in stages for source in info.sources],
        stages=[_training_row(info, korean=korean) for info in stages],
    )


def write_card(folder: Path, facts: CardFacts, form: Form) -> None:
    """`README.md`, the same in Korean, and `NOTICE`."""
    atomic_write_text(folder / "README.md", render_card(facts, form))
    atomic_write_text(folder / KOREAN_CARD, render_card(facts, form, korean=True))
    atomic_write_text(folder / "NOTICE", notice_text(facts.base))


def model_index(facts: CardFacts) -> str:
    """The hub's `model-index`: KorMedMCQA by profession, as JSON, which is YAML too; empty without such scores.

    Not `.eval_results/`, which the hub accepts for data sets that it lists as benchmarks; KorMedMCQA is none. Scores on
    other questions are in the table only: the hub names a data set of its own for each.
    """
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="multiple choice",
            dataset_type=KORMEDMCQA,
            dataset_name=f"KorMedMCQA ({row.profession})",
            dataset_config=row.profession,
            dataset_split=row.split,
            dataset_args={"num_few_shot": row.shots},
            metric_type="accuracy",
            metric_name=f"accuracy, {row.protocol} {row.version}, {row.shots} shots, n = {row.n}",
            metric_value=round(100 * row.accuracy, 2),
        )
        for row in facts.professions
        if row.on_hub
    ]
    if not results:
        return ""
    return json.dumps(eval_results_to_model_index(facts.name, results), ensure_ascii=False)


def _in_korean(text: str) -> str:
    """A score's text with its comparison in Korean."""
    for english in sorted(_CHANCE_KO, key=len, reverse=True):
        text = text.replace(english, _CHANCE_KO[english])
    return text


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
    return percent(score.correct, score.n)


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


def _training_row(info: TrainingInfo, *, korean: bool) -> dict[str, str]:
    used = {name: count for name, count in info.counts.items() if name in _COUNTS}
    return {
        "stage": info.stage,
        "steps": f"{info.training.optimizer_steps:,}",
        "tokens": f"{info.training.tokens:,}",
        "trained_on": ", ".join(
            f"{_COUNTS_KO[name]} {count:,}개" if korean else f"{count:,} {name.replace('_', ' ')}"
            for name, count in used.items()
        ),
    }
