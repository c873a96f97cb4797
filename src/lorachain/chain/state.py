"""Fresh, stale, partial or missing: decided by content, never by dates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorachain.chain.context import ChainContext
from lorachain.chain.initial import init_depends_on
from lorachain.chain.merging import merge_depends_on
from lorachain.chain.parents import parent_folder
from lorachain.data.sources import resolve
from lorachain.errors import LorachainError
from lorachain.provenance import TRAINING_INFO, read_json, sha256_file, sha256_json
from lorachain.training.checkpoints import steps_present
from lorachain.weights.factors import adapter_sha256
from lorachain.workspace import StageName

StepName = Literal["init", "00", "01", "merge", "02"]
STEPS: tuple[StepName, ...] = ("init", "00", "01", "merge", "02")
Condition = Literal["fresh", "stale", "partial", "missing"]
_SAMPLES: dict[str, str] = {"00": "plain_text.jsonl", "01": "dictionary.jsonl", "02": "exam"}


@dataclass(frozen=True, slots=True)
class StepState:
    """What stands of a step, and why it is not fresh where it is not."""

    step: StepName
    condition: Condition
    folder: Path
    info: dict[str, Any] | None = None
    reason: str = ""


def output_folder(context: ChainContext, step: StepName) -> Path:
    workspace, model = context.workspace, context.model
    if step == "init":
        return workspace.raw_lora_added(model)
    return workspace.another_lora_added(model) if step == "merge" else workspace.trained(step, model)


def step_state(context: ChainContext, step: StepName) -> StepState:
    """Compares what the step was made from with what stands now."""
    folder = output_folder(context, step)
    if not (folder / TRAINING_INFO).is_file():
        begun = steps_present(context.workspace.training(step, context.model)) if step in ("00", "01", "02") else []
        if begun:
            return StepState(step, "partial", folder, reason=f"checkpoint at step {begun[0]}")
        return StepState(step, "missing", folder)
    info = read_json(folder / TRAINING_INFO)
    try:
        reason = _why_stale(context, step, folder, info)
    except LorachainError as error:
        reason = str(error)
    return StepState(step, "stale" if reason else "fresh", folder, info, reason)


def _why_stale(context: ChainContext, step: StepName, folder: Path, info: dict[str, Any]) -> str:
    if adapter_sha256(folder) != info["adapter_sha256"]:
        return "its adapter file was changed after training"
    if step == "init":
        return _difference(info["depends_on"], init_depends_on(context))
    if step == "merge":
        return _difference(info["depends_on"], merge_depends_on(context))
    return _stage_difference(context, step, info)


def _stage_difference(context: ChainContext, stage: StageName, info: dict[str, Any]) -> str:
    made_from = info["depends_on"]
    parent = parent_folder(context, stage, skip_to_start=made_from["parent"]["folder"].startswith("raw_lora_added/"))
    if not parent.exists():
        return f"its parent {parent.parent.name} is gone"
    if adapter_sha256(parent) != made_from["parent"]["adapter_sha256"]:
        return f"{parent.parent.name} changed"
    if read_json(parent / TRAINING_INFO)["base_sha256"] != made_from["parent"]["base_sha256"]:
        return "its base changed"
    config = context.config
    now = {
        "stage": config.stages[stage].model_dump(),
        "training": config.training.model_dump(exclude={"save_every_minutes", "keep_checkpoints"}),
        "validation": config.validation.model_dump(),
        "dtype": config.dtype,
        "answer_style": context.entry.answer_style,
    }
    settings = _difference({**made_from["settings"], "seed": made_from["seed"]}, {**now, "seed": config.seed})
    return settings or _changed_source(context, stage, info)


def _difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """The first setting that differs, as `name was old, is new`."""
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if found := _difference(old, new, f"{prefix}{key}."):
                return found
        elif sha256_json(old) != sha256_json(new):
            return f"{prefix}{key} was {old}, is {new}"
    return ""


def _changed_source(context: ChainContext, stage: StageName, info: dict[str, Any]) -> str:
    """A source that is not what the stage read: another name, or a file with other content."""
    recorded = [(stage, source) for source in info["sources"]]
    recorded += [("02", source) for source in info["exam_sources"]]
    named = {*context.stage_sources(stage), *context.sources.exam}
    if {source["name"] for _, source in recorded} != named:
        was = ", ".join(sorted({source["name"] for _, source in recorded}))
        return f"sources were {was}, are {', '.join(sorted(named))}"
    for kind, source in recorded:
        root = resolve(source["name"], sample=_SAMPLES[kind]).path
        for name, expected in source["files"].items():
            path = root / name if root is not None and root.is_dir() else root
            if path is None or not path.is_file():
                return f"{name} of {source['name']} is gone"
            if sha256_file(path) != expected:
                return f"{path.name} changed"
    return ""
