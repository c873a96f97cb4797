"""Joins the processes that train a stage together.

Launchers (`torchrun`, `accelerate launch`) set the number of processes in the environment. Without a launcher there is
one process.
"""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from lorachain.errors import ConfigError
from lorachain.processes import Processes
from lorachain.training.sharding import take_sharding_request

# The others wait while the main process measures, merges or writes, which takes hours for a large model.
_TIMEOUT = timedelta(days=2)


def launched_processes() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(device: torch.device, *, quantized: bool = False) -> tuple[Processes, torch.device]:
    """Connects to the other processes, if a launcher started several; returns them and this process's device.

    Raises:
        ConfigError: the launcher requests a kind of sharding that lorachain does not support, or sharding of a
            `quantized` model.
    """
    sharded = take_sharding_request()
    if sharded and quantized:
        raise ConfigError(
            "FSDP2 is requested and 'quantization' is set: the bytes of quantized layers are not sharded. "
            'Launch without --use_fsdp, or set quantization = "none"'
        )
    if launched_processes() < 2:
        return Processes(), device
    cpu = device.type == "cpu"
    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    processes = Processes(state.process_index, state.num_processes, sharded, state.local_process_index)
    return processes, device if cpu else state.device
