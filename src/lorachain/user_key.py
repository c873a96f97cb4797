"""A key of this user's account, kept outside of every workspace: what it signed, this user wrote on this machine.

Caches lie where others may write. Their own hashes say that they are complete; only the signature says whose they are.
"""

import errno
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from lorachain.atomic import open_regular
from lorachain.errors import WorkspaceError
from lorachain.provenance import canonical_json
from lorachain.workspace import user_key_file

_KEY_BYTES = 32


def signature(value: object) -> str:
    """HMAC-SHA-256 of a JSON value with this user's key, which is created when first needed.

    Raises:
        WorkspaceError: the key cannot be kept, or the file is not this user's alone; the message says where it is.
    """
    return hmac.digest(_user_key(), canonical_json(value), "sha256").hex()


def is_signed(value: object, signed: str) -> bool:
    """Whether `signed` is the signature of `value`.

    Raises:
        WorkspaceError: as `signature`.
    """
    return hmac.compare_digest(signature(value).encode(), signed.encode("utf-8", "replace"))


def _user_key() -> bytes:
    path = user_key_file()
    try:
        if not os.path.lexists(path):
            _create(path)
        return _read(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory is known
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise WorkspaceError(f"the key of your account cannot be kept in {path} ({reason}); {_ELSEWHERE}") from error


_ELSEWHERE = "set XDG_STATE_HOME to a directory of your own that can be written to"


def _read(path: Path) -> bytes:
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        status = os.fstat(descriptor)
        content = os.read(descriptor, _KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise WorkspaceError(
            f"{path} belongs to another user or can be read by others, so that it says nothing; remove it, or "
            + _ELSEWHERE
        )
    if len(content) != _KEY_BYTES:
        raise WorkspaceError(f"{path} is not a key of {_KEY_BYTES} bytes; remove it: a new one is created")
    return content


def _create(path: Path) -> None:
    """Creates the key, complete or not at all; where another process is first, its key stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            _link(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        source.replace(target)  # a file system without hard links
