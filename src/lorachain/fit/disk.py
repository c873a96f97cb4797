"""What a chain writes, and what is free."""

from pathlib import Path

import psutil

from lorachain.artifacts import DiskNeed
from lorachain.chain.stages import training_stages
from lorachain.config import ChainConfig
from lorachain.fit.estimate import Structure, lora_parameters

_CHECKPOINT_BYTES = 16
"""Per LoRA parameter: the adapter, masters and two moments, all float32."""
_ADAPTER_BYTES = 4
_TOKENIZER_BYTES = 40_000_000
"""Beside each adapter: Gemma's tokenizer.json has 33 MB."""


def disk_need(structure: Structure, config: ChainConfig, *, downloaded: bool) -> DiskNeed:
    """Over a whole chain."""
    weights, lora = structure.parameters * 2, lora_parameters(structure, config)
    stages = len(training_stages())
    return DiskNeed(
        download=0 if downloaded else weights,
        merged_base=weights,
        adapters=(stages + 2) * (lora * _ADAPTER_BYTES + _TOKENIZER_BYTES),
        checkpoints=(stages * config.training.keep_checkpoints + 1) * lora * _CHECKPOINT_BYTES,
    )


def free_disk(place: Path) -> int:
    """Bytes free where `place` is or will be."""
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return int(psutil.disk_usage(str(existing)).free)
