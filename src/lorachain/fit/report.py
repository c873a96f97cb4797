"""The whole calculation for a model."""

from collections.abc import Sequence

import torch

from lorachain.artifacts import FitReport, Measured
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, find_training_stage, training_stages
from lorachain.errors import ModelError
from lorachain.fit.card import recommend, usable_bytes
from lorachain.fit.disk import disk_need, free_disk
from lorachain.fit.estimate import Structure, lora_parameters, read_structure, stage_memory
from lorachain.fit.measure import measure_stage
from lorachain.fit.model_config import ModelConfigFolder, find_config
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
