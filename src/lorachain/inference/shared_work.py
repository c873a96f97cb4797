"""Inference that several processes share, each with the whole model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from lorachain.processes import ALONE, Processes

R = TypeVar("R")

_processes: ContextVar[Processes] = ContextVar("processes that share inference", default=ALONE)


@contextmanager
def shared_inference(processes: Processes) -> Iterator[None]:
    """Within it, each process computes a part of every forward pass and generation, and all get all results.

    All processes enter it, and compute the same things in the same order. A sharded model is computed by all processes
    together anyway: nothing changes for it.
    """
    token = _processes.set(ALONE if processes.sharded else processes)
    try:
        yield
    finally:
        _processes.reset(token)


def share_groups(
    groups: Sequence[list[int]],
    compute: Callable[[list[list[int]], Callable[[int], None]], dict[int, R]],
    on_progress: Callable[[int], None] | None,
) -> dict[int, R]:
    """The result for every index in `groups`.

    Args:
        compute: returns the result for every index of this process's groups; calls what it is given with the number of
            those that are finished.
        on_progress: called with the number of finished indices, of all processes if the others are as fast.
    """
    processes = _processes.get()
    total = sum(map(len, groups))

    def report(finished: int) -> None:
        if on_progress is not None:
            on_progress(min(total, finished * processes.world))

    results: dict[int, R] = {}
    for part in processes.gather(lambda: compute(list(processes.share(groups)), report)):
        results |= part
    if processes.world > 1:
        report(total)
    return results
