"""Two processes as two threads: what they give each other goes through memory instead of gloo.

One runs at a time, until it waits for the other: a model and its attention are not made for two threads.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch

from lorachain.processes import Processes

T = TypeVar("T")


class TwoThreads:
    """Replaces the functions of `torch.distributed` that `Processes` calls."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._barrier = threading.Barrier(2)
        self._running = threading.Lock()
        self._rank = threading.local()
        self._values: list[Any] = [None, None]
        patch.setattr(torch.distributed, "barrier", self._wait)
        patch.setattr(torch.distributed, "all_gather_object", self._all_gather)
        patch.setattr(torch.distributed, "broadcast_object_list", self._broadcast)

    def run(self, work: Callable[[Processes], T], **fields: Any) -> list[T | BaseException]:
        """What `work` returned or raised in each."""

        def of(rank: int) -> T | BaseException:
            self._rank.value = rank
            with self._running:
                try:
                    return work(Processes(rank, 2, **fields))
                except Exception as error:
                    return error

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(of, range(2)))

    def _wait(self) -> None:
        self._running.release()
        try:
            self._barrier.wait(timeout=60)
        finally:
            self._running.acquire()

    def _all_gather(self, values: list[Any], value: Any) -> None:
        self._values[self._rank.value] = value
        self._wait()
        values[:] = self._values
        self._wait()

    def _broadcast(self, values: list[Any], src: int) -> None:
        if self._rank.value == src:
            self._values[src] = values[0]
        self._wait()
        values[0] = self._values[src]
        self._wait()
