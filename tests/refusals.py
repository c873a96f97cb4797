"""Commands that must be refused without changing anything, and functions that fail."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from chain_making import run_command_line


def listing(root: Path) -> dict[str, str]:
    """Every file with its hash, and every empty directory; without debug logs and journals, which record attempts."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "empty"
        for path in root.rglob("*")
        if not path.name.endswith(("_debug.log", ".part.jsonl")) and (path.is_file() or not any(path.iterdir()))
    }


def refused(root: Path, *arguments: object, says: tuple[str, ...]) -> str:
    """Runs a command that must be refused with exit code 2 and one message, which is returned."""
    before = listing(root)
    code, out, err = run_command_line(*arguments)
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    message = err[err.index("error: ") :]
    assert message.count("error: ") == 1
    for text in says:
        assert text in message, message
    assert listing(root) == before
    return message


def raising(error: Exception) -> Callable[..., None]:
    """A function that raises `error` whatever its arguments."""

    def call(*arguments: object, **settings: object) -> None:
        raise error

    return call
