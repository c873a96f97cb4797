"""One writer per model: a lock file that the operating system releases with its process."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from lorachain.artifacts import LockHolder
from lorachain.atomic import folder_for, open_regular
from lorachain.errors import WorkspaceError
from lorachain.workspace import Workspace

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ModelLock:
    """The lock while it is held."""

    file: TextIO
    holder: LockHolder
    taken_over_from: str | None
    """The holder that ended without releasing the lock, if there was one."""

    def working_on(self, stage: str) -> None:
        """Records the stage, for `lorachain status`."""
        _write(self.file, self.holder.model_copy(update={"stage": stage}))


@contextmanager
def model_lock(workspace: Workspace, model: str, command: str) -> Iterator[ModelLock]:
    """Holds the model's lock. An `flock` ends with its process; the file records whose it is.

    Raises:
        WorkspaceError: another run holds it; names process, host and start.
    """
    path = workspace.lock_file(model)
    with folder_for(path), _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except OSError:
            held = False  # locked by another process, or removed by one that just ended
        if not held:
            raise WorkspaceError(
                f"another run is working on {model} in {workspace.root}: {_describe(_read(file))}. Wait for it, or use "
                "another --workspace"
            )
        previous = _describe(_read(file)) if path.stat().st_size else None
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = LockHolder(pid=os.getpid(), host=socket.gethostname(), start=started, command=command)
        _write(file, holder)
        try:
            yield ModelLock(file, holder, previous)
        finally:
            path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone


def lock_holder(workspace: Workspace, model: str) -> LockHolder | None:
    """The run that holds the model's lock now; None where none does."""
    path = workspace.lock_file(model)
    if not path.is_file():
        return None
    with suppress(OSError, WorkspaceError), os.fdopen(open_regular(path, os.O_RDONLY), encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read(file)
    return None


def _open(path: Path) -> TextIO:
    return os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+", encoding="utf-8")


def _write(file: TextIO, holder: LockHolder) -> None:
    file.truncate(0)
    file.write(json.dumps(holder.as_dict(), ensure_ascii=False))
    file.flush()


def _read(file: TextIO) -> LockHolder | None:
    try:
        file.seek(0)
        return LockHolder.model_validate_json(file.read(_MAX_BYTES))
    except (OSError, ValueError, ValidationError):
        return None


def _describe(holder: LockHolder | None) -> str:
    if holder is None:
        return "an unknown process"
    return f"process {holder.pid} on {holder.host}, started {holder.start}"
