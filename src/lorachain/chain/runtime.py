"""The machine a run computes on: its device, and the processes that share the work."""

import os
from dataclasses import dataclass, field

import torch

from lorachain.config import ChainConfig
from lorachain.errors import ConfigError
from lorachain.training.determinism import prepare_determinism
from lorachain.training.distributed import Processes, join_processes
from lorachain.weights.load import resolve_device

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""By the names that settings and files have."""


@dataclass(frozen=True, slots=True)
class Runtime:
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    processes: Processes = field(default_factory=Processes)


def dtype_of(config: ChainConfig) -> torch.dtype:
    """The type that the settings compute in."""
    return DTYPES[config.dtype]


def start_runtime(config: ChainConfig) -> Runtime:
    """Joins the processes that a launcher started, if any.

    Raises:
        DeviceError: the device is not available. ConfigError: the launcher's sharding is not supported, or it started
            several processes for one GPU.
    """
    if config.training.deterministic:
        prepare_determinism()
    device = resolve_device(_own_device(config.device))
    processes, device = join_processes(device, quantized=config.quantization != "none")
    return Runtime(device, dtype_of(config), processes)


def _own_device(name: str) -> str:
    """The device of the settings; of several processes, each one's own GPU: none of them touches another's."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise ConfigError(
            f"device is {name!r}, but a launcher started several processes, and each has a GPU of its own; set it to "
            "cuda or auto, and choose the GPUs with CUDA_VISIBLE_DEVICES"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
