"""What `lorachain run` warns of at its start: a run that will probably not fit."""

from collections.abc import Iterator, Sequence

from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage
from lorachain.errors import LorachainError
from lorachain.fit.disk import disk_need, free_disk
from lorachain.fit.estimate import read_structure, stage_memory
from lorachain.fit.model_config import find_config
from lorachain.memory import free_memory
from lorachain.weights.load import resolve_device


def run_warnings(context: ChainContext, stages: Sequence[Stage]) -> Iterator[str]:
    """Why a run of these stages will probably not fit; of a model on the hub at most config.json is downloaded.

    Nothing where the model's configuration cannot be had or is not valid: the run says so itself.
    """
    pending = [stage for stage in stages if stage.kind == "training"]
    if not pending:
        return
    try:
        found = find_config(context, None)
        structure, device = read_structure(found.folder), resolve_device(context.config.device)
    except LorachainError:
        return
    available = free_memory(device)
    needs = [
        stage_memory(structure, context.config, stage, device_type=device.type, capacity=available) for stage in pending
    ]
    largest = max(needs, key=lambda need: need.total)
    if largest.total > available:
        yield (
            f"stage {largest.stage} needs up to {gb(largest.total)}, {device} has {gb(available)} available, so that "
            f"it will probably not fit; for settings that do: lorachain fit {context.model}"
        )
    need, free = disk_need(structure, context.config, downloaded=found.weights), free_disk(context.workspace.model_root)
    merges = any(stage.kind == "merge" for stage in stages)
    total = need.total if merges else need.total - need.merged_base
    if total > free:
        yield (
            f"these stages write up to {gb(total)}, {context.workspace.model_root} has {gb(free)} free, so that the "
            "disk will probably be full before they end"
        )


def gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
