"""The processes of a run: what each computes, and what the main one decides for all.

A launcher starts them (training/distributed.py). Alone, a process communicates with nothing here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lorachain.errors import LorachainError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1
    sharded: bool = False
    """Each process holds only a part of the model (training/sharding.py)."""
    local_rank: int = 0
    """Among the processes of this node."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def wait(self) -> None:
        """Blocks until every process has reached this call."""
        if self.world > 1:
            torch.distributed.barrier()

    def broadcast(self, decide: Callable[[], T]) -> T:
        """The result of `decide` in the main process, in all processes.

        For decisions that depend on files or clocks, which another process could read differently.

        Raises:
            LorachainError: in all processes, where `decide` raised it.
        """
        outcome: list[Any] = [_outcome(decide) if self.main else None]
        if self.world > 1:
            torch.distributed.broadcast_object_list(outcome, src=0)
        return cast(T, _result(outcome[0]))

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: every world-th."""
        return items[self.rank :: self.world]

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """The result of `compute` in each process by rank, in all processes.

        Raises:
            LorachainError: in all processes, where it was raised in one; the first by rank.
        """
        if self.world == 1:
            return [compute()]
        return [_result(outcome) for outcome in self.all_gather(_outcome(compute))]

    def first_on_each_node(self, prepare: Callable[[], T]) -> T:
        """The result of `prepare`, which finds in files what another process has written there.

        The main process runs it first, then the first process of each other node, which may have other disks, then the
        rest.

        Raises:
            LorachainError: in all processes, where it was raised in one.
        """
        own_turn = 0 if self.main else 1 if self.local_rank == 0 else 2
        prepared: list[T] = []

        def take(turn: int) -> None:
            if turn == own_turn:
                prepared.append(prepare())

        for turn in range(3):
            self.gather(partial(take, turn))
        return prepared[0]

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


ALONE = Processes()


@dataclass(frozen=True, slots=True)
class _Failed:
    error: LorachainError


def _outcome(compute: Callable[[], T]) -> T | _Failed:
    try:
        return compute()
    except LorachainError as error:
        return _Failed(error)


def _result(outcome: T | _Failed) -> T:
    if isinstance(outcome, _Failed):
        raise outcome.error
    return outcome
