"""The machine a run computes on: its device, and the processes that share the work."""

import os
from dataclasses import dataclass, field

import torch
from torch import nn

from lorachain.config import ChainConfig
from lorachain.errors import ConfigError
from lorachain.processes import Processes
from lorachain.training.determinism import prepare_determinism
from lorachain.training.distributed import join_processes, launched_processes
from lorachain.training.sharding import shard_layers
from lorachain.weights.load import resolve_device

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""By the names that settings and files have."""


@dataclass(frozen=True, slots=True)
class Runtime:
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    processes: Processes = field(default_factory=Processes)

    @property
    def loading_device(self) -> torch.device:
        """Where weights are loaded: what will be sharded in main memory, because it need not fit on one GPU."""
        return torch.device("cpu") if self.processes.sharded else self.device

    def distribute(self, model: nn.Module) -> None:
        """Shards a model that was loaded on `loading_device`, where its layers are to be."""
        if self.processes.sharded:
            shard_layers(model, self.device)


def dtype_of(config: ChainConfig) -> torch.dtype:
    """The type that the settings compute in."""
    return DTYPES[config.dtype]


def start_runtime(config: ChainConfig, *, shared: bool = False) -> Runtime:
    """Joins the processes that a launcher started, if any.

    Args:
        shared: several processes share the work of the command. Of another command each would do all of it, and write
            the same files.

    Raises:
        DeviceError: the device is not available. ConfigError: a launcher started several processes for one GPU or for
            work that is not `shared`, or its sharding is not supported.
    """
    if launched_processes() > 1 and not shared:
        raise ConfigError(
            f"a launcher started {launched_processes()} processes, and this command does not share its work; start it "
            "without a launcher (those that do: init, train, run, eval, write-reasoning)"
        )
    if config.training.deterministic:
        prepare_determinism()
    device = resolve_device(_own_device(config.device))
    processes, device = join_processes(device, config.quantization)
    return Runtime(device, dtype_of(config), processes)


def refuse_launcher(engine: str, command: str) -> None:
    """Raises ConfigError where a launcher started several processes for another engine than `local`."""
    if engine != "local" and launched_processes() > 1:
        raise ConfigError(f"--engine {engine} uses its own GPUs; start `lorachain {command}` without a launcher")


def _own_device(name: str) -> str:
    """The device of the settings; of several processes, each one's own GPU: none of them touches another's."""
    if launched_processes() < 2 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise ConfigError(
            f"device is {name!r}, but a launcher started several processes, and each has a GPU of its own; set it to "
            "cuda or auto, and choose the GPUs with CUDA_VISIBLE_DEVICES"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
