"""Fresh, stale, partial or missing: decided by content, never by dates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorachain.chain.context import ChainContext
from lorachain.chain.init_step import init_depends_on
from lorachain.chain.merge_step import merge_depends_on
from lorachain.chain.parents import parent_folder
from lorachain.data.staleness import Reading, changed_since
from lorachain.errors import LorachainError
from lorachain.provenance import TRAINING_INFO, read_json, sha256_json
from lorachain.training.checkpoints import steps_present
from lorachain.weights.lora_file import adapter_sha256
from lorachain.workspace import StageName

StepName = Literal["init", "00", "01", "merge", "02"]
STEPS: tuple[StepName, ...] = ("init", "00", "01", "merge", "02")
Condition = Literal["fresh", "stale", "partial", "missing"]
_READINGS: dict[StageName, Reading] = {"00": "plain text", "01": "dictionary", "02": "exam for training"}


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


def step_state(
    context: ChainContext,
    step: StepName,
    *,
    as_configured: bool = True,
    from_base: bool = False,
    ask_hub: bool = False,
) -> StepState:
    """Compares what the step was made from with what stands now.

    Args:
        as_configured: also with the settings and sources at hand; without it only with what lies on the disk
            (a command for one stage knows nothing of the options that another was given).
        from_base: stage 02 is wanted straight on raw_lora_added.
        ask_hub: ask the hub whether a data set changed; without it nothing goes over the network.
    """
    folder = output_folder(context, step)
    if not (folder / TRAINING_INFO).is_file():
        begun = steps_present(context.workspace.training(step, context.model)) if step in ("00", "01", "02") else []
        if begun:
            return StepState(step, "partial", folder, reason=f"checkpoint at step {begun[0]}")
        return StepState(step, "missing", folder)
    info = None
    try:
        info = read_json(folder / TRAINING_INFO)
        reason = _why_stale(context, step, folder, info, as_configured, ask_hub)
        if not reason and step == "02" and as_configured and _from_base(info) != from_base:
            reason = f"it was trained on {info['depends_on']['parent']['folder']}"
    except LorachainError as error:
        reason = str(error)
    except (KeyError, TypeError, AttributeError) as error:
        info, reason = None, f"{TRAINING_INFO} is not as this lorachain writes it ({type(error).__name__}: {error})"
    return StepState(step, "stale" if reason else "fresh", folder, info, reason)


def _from_base(info: dict[str, Any]) -> bool:
    folder: str = info["depends_on"]["parent"]["folder"]
    return folder.startswith("raw_lora_added/")


def _why_stale(
    context: ChainContext, step: StepName, folder: Path, info: dict[str, Any], as_configured: bool, ask_hub: bool
) -> str:
    if adapter_sha256(folder) != info["adapter_sha256"]:
        return "its adapter file was changed after training"
    if step == "init" or step == "merge":
        made_from = info["depends_on"]
        now = init_depends_on(context) if step == "init" else merge_depends_on(context)
        if not as_configured:
            now |= {key: made_from[key] for key in ("lora", "seed")}
        return _difference(made_from, now)
    changed = _changed_parent(context, step, info)
    if not changed and as_configured:
        changed = _changed_settings(context, step, info)
    return changed or _changed_source(context, step, info, as_configured, ask_hub)


def _changed_parent(context: ChainContext, stage: StageName, info: dict[str, Any]) -> str:
    made_from = info["depends_on"]
    parent = parent_folder(context, stage, from_base=_from_base(info))
    if not parent.exists():
        return f"its parent {parent.parent.name} is gone"
    if adapter_sha256(parent) != made_from["parent"]["adapter_sha256"]:
        return f"{parent.parent.name} changed"
    if read_json(parent / TRAINING_INFO)["base_sha256"] != made_from["parent"]["base_sha256"]:
        return "its base changed"
    return ""


def _changed_settings(context: ChainContext, stage: StageName, info: dict[str, Any]) -> str:
    made_from = info["depends_on"]
    before = {**made_from["settings"], "seed": made_from["seed"]}
    return _difference(before, {**context.deciding_settings(stage), "seed": context.config.seed})


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


def _changed_source(
    context: ChainContext, stage: StageName, info: dict[str, Any], as_configured: bool, ask_hub: bool
) -> str:
    """A source that holds something else than the stage read; `as_configured`, the source that is named now."""
    for reading, read, configured in (
        (_READINGS[stage], info["sources"], context.stage_sources(stage)),
        ("exam for validation", info["exam_sources"], context.sources.exam),
    ):
        were = [source["name"] for source in read]
        named = configured if as_configured else were
        if len(named) != len(were):
            return f"sources were {', '.join(were)}, are {', '.join(named)}"
        for source, name in zip(read, named, strict=True):
            changed = changed_since(source, name, reading, ask_hub=ask_hub, on_message=context.reporter.message)
            if changed:
                return changed
    return ""
