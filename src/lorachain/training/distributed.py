"""The processes that train a stage together: what the main one decides, writes and reports for all.

Launchers (`torchrun`, `accelerate launch`) set the number of processes in the environment. Without a launcher there is
one process, and nothing here communicates.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from torch import Tensor

from lorachain.errors import ConfigError
from lorachain.training.batch_schedule import Share
from lorachain.training.sharding import take_sharding_request

T = TypeVar("T")
# The others wait while the main process validates, merges or writes, which takes hours for a large model.
_TIMEOUT = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1
    sharded: bool = False
    """Each process holds only a part of the model (training/sharding.py)."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        return Share(self.rank, self.world)

    def wait(self) -> None:
        """Blocks until every process has reached this call."""
        if self.world > 1:
            torch.distributed.barrier()

    def broadcast(self, decide: Callable[[], T]) -> T:
        """The result of `decide` in the main process, in all processes.

        For decisions that depend on files or clocks, which another process could read differently.
        """
        decision: list[Any] = [decide() if self.main else None]
        if self.world > 1:
            torch.distributed.broadcast_object_list(decision, src=0)
        return cast(T, decision[0])

    def on_main(self, compute: Callable[[], T]) -> T | None:
        """The result of `compute`, which uses the model, in the main process; None in the others.

        The others run `compute` too where they hold a part of the model.
        """
        result = compute() if self.main or self.sharded else None
        return result if self.main else None

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, which all give tensors of the same shapes."""
        if self.world == 1:
            return
        pending = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work, tensor in zip(pending, tensors, strict=True):
            cast(Any, work).wait()
            tensor /= self.world

    def all_gather(self, value: T) -> list[T]:
        """The value of each process by rank, in all processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


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
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes(), device
    cpu = device.type == "cpu"
    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    return Processes(state.process_index, state.num_processes, sharded), device if cpu else state.device
