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
from lorachain.training.batch_schedule import Share
from lorachain.training.sharding import sharding_wanted

T = TypeVar("T")
# The others wait while the main process validates, merges or writes: hours for a large model.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1
    sharded: bool = False
    """Each has a part of the model only (`training/sharding.py`)."""

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

    def broadcast(self, decide: Callable[[], T]) -> T:
        """What the main process finds, for all: another might read the disk or its clock otherwise."""
        found: list[Any] = [decide() if self.main else None]
        if self.world > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return cast(T, found[0])

    def on_main(self, compute: Callable[[], T]) -> T | None:
        """What the main process computes with the model; None for the others, which compute along where they hold a
        part of it."""
        found = compute() if self.main or self.sharded else None
        return found if self.main else None

    def all_gather(self, value: T) -> list[T]:
        """The value of each process, by rank, known to all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


def join_processes(device: torch.device, *, quantized: bool = False) -> tuple[Processes, torch.device]:
    """Meets the other processes, where a launcher started several; and the device of this one.

    Raises:
        ConfigError: the launcher was told to shard in a way that lorachain does not know, or a `quantized` model.
    """
    sharded = sharding_wanted()
    if sharded and quantized:
        raise ConfigError(
            "FSDP2 was asked for and 'quantization' is set: the bytes of quantized layers are not sharded. "
            'Launch without --use_fsdp, or set quantization = "none"'
        )
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(), device
    cpu = device.type == "cpu"
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, sharded), device if cpu else state.device
