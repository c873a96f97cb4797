"""Screens chunks in several processes, in order.

The workers are this module run as a program, connected by pipes: a pool of `multiprocessing` would import the user's
script again, which need not be written for that. Each worker has one chunk at a time and reads all of it before it
answers, so that no pipe fills up on both sides. What goes through the pipes was made by this very program.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from lorachain.data.gates.chunk import Chunk, ChunkResult, ChunkScreen
from lorachain.redaction import without_secrets

_ALONE = 4
"""Chunks that this process screens before it starts others: small data need none."""
MAX_PROCESSES = 8
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class _Worker:
    connection: Any

    def send(self, chunk: Chunk) -> None:
        try:
            self.connection.send(chunk)
        except OSError as error:
            raise RuntimeError("a process that screens data ended; set data.processes to 1") from error

    def receive(self) -> ChunkResult:
        try:
            result: ChunkResult = self.connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a process that screens data ended; set data.processes to 1") from error
        return result


def process_count(setting: int) -> int:
    """How many processes screen: the setting, or one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return setting or min(MAX_PROCESSES, cores)


def screened(chunks: Iterable[Chunk], screen: ChunkScreen, processes: int) -> Iterator[tuple[Chunk, ChunkResult]]:
    """Each chunk with its result, in order; as many chunks are read ahead as there are processes.

    Raises:
        RuntimeError: a worker ended.
    """
    remaining = iter(chunks)
    for chunk in islice(remaining, _ALONE) if processes > 1 else remaining:
        yield chunk, screen.screen(chunk)
    following = next(remaining, None)
    if following is None:
        return
    with ExitStack() as stack:
        idle = deque(stack.enter_context(_started(screen)) for _ in range(processes))
        busy: deque[tuple[_Worker, Chunk]] = deque()
        while following is not None or busy:
            if following is not None and idle:
                worker = idle.popleft()
                worker.send(following)
                busy.append((worker, following))
                following = next(remaining, None)
            else:
                worker, sent = busy.popleft()
                result = worker.receive()
                idle.append(worker)
                yield sent, result


@contextmanager
def _started(screen: ChunkScreen) -> Iterator[_Worker]:
    """A worker process, ended with the `with` block."""
    ours, theirs = Pipe()
    search_path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        # -P: nothing in the current directory is imported.
        [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        env={**without_secrets(os.environ), **_ONE_THREAD, "PYTHONPATH": search_path},
    )
    theirs.close()
    try:
        ours.send(screen)
        yield _Worker(ours)
    finally:
        ours.close()
        process.kill()
        process.wait()


def _serve(connection: Any) -> None:
    screen: ChunkScreen = connection.recv()
    while True:
        try:
            chunk: Chunk = connection.recv()
        except EOFError:
            return
        connection.send(screen.screen(chunk))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
