"""Where a thing came from: hashes, versions, and the files that say so beside every trained adapter."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorachain import __version__
from lorachain.errors import WorkspaceError
from lorachain.redaction import without_tokens
from lorachain.workspace import atomic_write_text

TRAINING_INFO = "training_info.json"
VALIDATION_RESULTS = "kormedmcqa_validation_results.json"
SCHEMA_VERSION = 1
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers", "numpy")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Of the canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_files(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256 of each file below `folder`."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def package_versions() -> dict[str, str]:
    versions = {"lorachain": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `+dirty` where it has changes; None outside one."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def write_json(path: Path, value: object) -> None:
    atomic_write_text(path, without_tokens(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file that lorachain itself wrote.

    Raises:
        WorkspaceError: it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkspaceError(
            f"{path} cannot be read: {error}. The folder is not whole; make its stage again"
        ) from error
