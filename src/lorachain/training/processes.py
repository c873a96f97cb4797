"""The processes that train one stage together: who writes, who waits, and what one decides for all.

Launchers (`torchrun`, `accelerate launch`) say in the environment how many there are; without one there is one process
and nothing here talks to anybody.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState

from lorachain.errors import ConfigError
from lorachain.training.steps import Share

T = TypeVar("T")
# The others wait while the main process validates, merges or writes: hours for a large model.
_PATIENCE = timedelta(days=2)
_SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        return Share(self.rank, self.world)

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()

    def decided(self, decide: Callable[[], T]) -> T:
        """What the main process finds, for all: another might read the disk or its clock otherwise."""
        found: list[Any] = [decide() if self.main else None]
        if self.world > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return cast(T, found[0])

    def of_each(self, value: T) -> list[T]:
        """The value of each process, by rank, known to all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Meets the other processes, where a launcher started several; and the device of this one.

    Raises:
        ConfigError: the launcher was told to shard the model, which lorachain does not do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(), device
    for variable in _SHARDING:
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"{variable} is set: several processes share a step's batch (DDP), the model is not sharded. "
                "Launch with --multi_gpu, or with torchrun"
            )
    cpu = device.type == "cpu"
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes), device if cpu else state.device
