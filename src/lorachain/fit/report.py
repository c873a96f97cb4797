"""The whole calculation for a model, and the warnings of a run that will not fit."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch

from lorachain.artifacts import FitReport, Measured
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, find_training_stage, training_stages
from lorachain.errors import LorachainError, ModelError
from lorachain.fit.card import recommend, usable_bytes
from lorachain.fit.estimate import Structure, disk_need, lora_parameters, read_structure, stage_memory
from lorachain.fit.measure import measure_stage
from lorachain.fit.model_config import ModelConfigFolder, find_config
from lorachain.registry import cached_hub_folder, has_weights, weights_folder
from lorachain.weights.load import resolve_device


def fit(context: ChainContext, what: str | None, *, capacity: int | None, measure: Sequence[str] = ()) -> FitReport:
    """Memory of every training stage, disk, and settings for the card.

    Args:
        what: see `find_config`.
        capacity: bytes of the card; None: of the device of the settings, where it is an accelerator.
        measure: training stages of which two steps are run; the weights must be on this machine.

    Raises:
        ModelError: no such model. DeviceError: the device is not available. ConfigError: an unknown stage.
    """
    stages = [find_training_stage(name) for name in measure]
    found = find_config(context, what)
    structure = read_structure(found.folder)
    config = context.config
    device = torch.device("cuda") if capacity is not None else resolve_device(config.device)
    if capacity is None and device.type == "cuda":
        capacity = torch.cuda.mem_get_info(device)[1]
    needs = {
        stage.name: stage_memory(structure, config, stage, device_type=device.type, capacity=capacity)
        for stage in training_stages()
    }
    advice = recommend(structure, config, capacity) if capacity is not None else None
    return FitReport(
        model=found.name,
        parameters=structure.parameters,
        lora_parameters=lora_parameters(structure, config),
        stages=tuple(needs.values()),
        disk=disk_need(structure, config, downloaded=found.weights),
        disk_free=free_disk(context.workspace.model_root),
        capacity=capacity,
        usable=usable_bytes(capacity) if capacity is not None else None,
        recommended=advice.settings if advice else None,
        configuration=advice.toml(found.name, capacity) if advice and capacity is not None else None,
        rejected=tuple(advice.rejected) if advice else (),
        measured=tuple(_measured(context, found, structure, stage) for stage in stages),
    )


def _measured(context: ChainContext, found: ModelConfigFolder, structure: Structure, stage: Stage) -> Measured:
    if not found.weights:
        raise ModelError(
            f"--measure trains two steps, but the weights of {found.name} are not on this machine; without --measure "
            "only config.json is read"
        )
    device = resolve_device(context.config.device)
    capacity = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    calculated = stage_memory(structure, context.config, stage, device_type=device.type, capacity=capacity)
    return measure_stage(found.folder, context.config, stage, calculated)


def free_disk(place: Path) -> int:
    """Bytes free where `place` is or will be."""
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return int(psutil.disk_usage(str(existing)).free)


def run_warnings(context: ChainContext, stages: Sequence[Stage]) -> Iterator[str]:
    """Why a run of these stages will probably not fit; nothing is downloaded.

    Nothing where the model's configuration is not on this machine or is not valid: the run says so itself.
    """
    pending = [stage for stage in stages if stage.kind == "training"]
    folder = _local_config(context)
    if folder is None or not pending:
        return
    try:
        structure, device = read_structure(folder), resolve_device(context.config.device)
    except LorachainError:
        return
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    needs = [
        stage_memory(structure, context.config, stage, device_type=device.type, capacity=available) for stage in pending
    ]
    largest = max(needs, key=lambda need: need.total)
    if largest.total > available:
        yield (
            f"stage {largest.stage} needs up to {_gb(largest.total)}, {device} has {_gb(available)} available: "
            f"it will probably not fit. See {context.command('fit')}"
        )
    disk, free = disk_need(structure, context.config, downloaded=True), free_disk(context.workspace.model_root)
    if disk.total > free:
        yield (
            f"a chain writes up to {_gb(disk.total)}, {context.workspace.model_root} has {_gb(free)} free: the disk "
            "will probably be full before it ends"
        )


def _local_config(context: ChainContext) -> Path | None:
    entry = context.entry
    if entry.huggingface_id is not None:
        return cached_hub_folder(entry.huggingface_id, entry.revision)
    return weights_folder(entry) if has_weights(entry) else None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
