"""The machine a run computes on: its device, and the processes that share the work."""

from dataclasses import dataclass, field

import torch

from lorachain.config import ChainConfig
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
        DeviceError: the device is not available. ConfigError: the launcher's sharding is not supported.
    """
    if config.training.deterministic:
        prepare_determinism()
    device = resolve_device(config.device)
    processes, device = join_processes(device, quantized=config.quantization != "none")
    return Runtime(device, dtype_of(config), processes)
