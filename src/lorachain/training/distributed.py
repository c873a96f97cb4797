"""Joins the processes that train a stage together.

Launchers (`torchrun`, `accelerate launch`) set the number of processes in the environment. Without a launcher there is
one process.
"""

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from lorachain.config import Quantization
from lorachain.errors import ConfigError
from lorachain.processes import Processes
from lorachain.training.sharding import take_sharding_request

# The others wait while the main process measures, merges or writes, which takes hours for a large model.
_TIMEOUT = timedelta(days=2)


def launched_processes() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(device: torch.device, quantization: Quantization = "none") -> tuple[Processes, torch.device]:
    """Connects to the other processes, if a launcher started several; returns them and this process's device.

    Raises:
        ConfigError: the launcher requests a kind of sharding that lorachain does not support, or sharding of a base
            that is held in 8 bits.
    """
    sharded = take_sharding_request()
    if sharded and quantization == "int8":  # its scales are attributes of parameters, which FSDP2 replaces
        raise ConfigError(
            "FSDP2 is requested and 'quantization' is 'int8', which is not sharded; set quantization to \"nf4\" or "
            '"none", or launch without --use_fsdp'
        )
    if launched_processes() < 2:
        return Processes(), device
    cpu = device.type == "cpu"
    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    processes = Processes(state.process_index, state.num_processes, sharded, state.local_process_index)
    return processes, device if cpu else state.device
