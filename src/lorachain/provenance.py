"""Hashes and versions: where files came from. Reading and writing JSON safely."""

import errno
import hashlib
import json
import os
import platform
import stat
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorachain.atomic import atomic_write_text
from lorachain.errors import AdapterError
from lorachain.redaction import without_secrets, without_tokens_in
from lorachain.version import __version__

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_JSON_BYTES = 256 * 2**20
"""Larger than any that lorachain writes or that comes with a model (a tokenizer's is 33 MB)."""
_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "numpy"),
    "bitsandbytes",
)


def sha256_file(path: Path) -> str:
    """Raises OSError where it is not a regular file (a pipe would block) or cannot be read."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def sha256_json(value: object) -> str:
    """Of the canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_files(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 of each file below `folder`."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def adapter_sha256(folder: Path) -> str:
    """The identity of an adapter: SHA-256 over the hashes of its configuration and its weights.

    Raises:
        AdapterError: one of them cannot be read.
    """
    try:
        return sha256_json({name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)})
    except OSError as error:
        raise AdapterError(f"{folder} is not a complete adapter: {error}; create it again") from error


def package_versions() -> dict[str, str]:
    versions = {"lorachain": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of lorachain's own checkout, with `+dirty` where it has changes; None for an installed package.

    A repository above an installed package is somebody else's, and its configuration could run programs.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists() or not (checkout / "src" / "lorachain").is_dir():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit + ("+dirty" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    harmless = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        ["git", *harmless, "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        env=without_secrets(os.environ),
    )
    return done.stdout.strip()


def write_json(path: Path, value: object) -> None:
    """Writes JSON atomically, without hub tokens.

    Raises:
        ValueError: a number is not finite. WorkspaceError: the disk is full.
    """
    text = json.dumps(without_tokens_in(value), ensure_ascii=False, indent=2, allow_nan=False)
    atomic_write_text(path, text + "\n")


def load_json(path: Path) -> Any:
    """A JSON file from any source: too large, too deeply nested or not a regular file is an error, never a hang.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not valid JSON, or not plausible.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"it has {status.st_size:,} bytes, more than the limit of {MAX_JSON_BYTES:,}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
