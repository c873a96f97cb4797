"""Models that are unknown, not allowed or not available: one message, nothing left behind."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from lorachain.registry import ModelEntry, weights_folder
from refusals import raising, refused

ROOT = Path(__file__).parent.parent.parent


def test_unknown_model(root: Path) -> None:
    refused(
        root, "init", "--model", "medgema", "--workspace", root,
        says=(
            *("unknown model 'medgema'", "this workspace knows: gemma-3-270m, medgemma-27b, medgemma-4b, tiny"),
            *("model_paths.json", "huggingface_id"),
        ),
    )  # fmt: skip


def test_unknown_model_in_an_empty_directory(tmp_path: Path) -> None:
    refused(tmp_path, "init", "--model", "x", "--workspace", tmp_path, says=("gemma-3-270m, medgemma-27b",))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a\nb", "..", ".hidden", "a/b", "a..b", "x" * 97, "가"])
@pytest.mark.parametrize("command", [("init",), ("train", "00"), ("run",), ("status",)])
def test_model_names_that_would_leave_the_workspace(root: Path, name: str, command: tuple[str, ...]) -> None:
    refused(
        root, *command, "--model", name, "--workspace", root, says=(repr(name), "is not allowed", "letters, digits")
    )


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "names no weights"),
        ({"local_path": "a", "huggingface_id": "b/c"}, "exactly one of"),
        ({"huggingface_id": "not an id"}, "huggingface_id is 'not an id'"),
        ({"huggingface_id": "owner/.."}, "huggingface_id is 'owner/..'"),
        ({"huggingface": "a/b"}, "unknown key 'huggingface'"),
        ([], "the entry is []"),
    ],
)
def test_invalid_entries(root: Path, entry: object, text: str) -> None:
    path = root / "model" / "raw" / "model_paths.json"
    path.write_text(json.dumps({"tiny": entry}))
    refused(root, "init", "--model", "tiny", "--workspace", root, says=(str(path), "'tiny'", text))


def test_a_local_path_without_a_model(root: Path, tmp_path: Path) -> None:
    path = root / "model" / "raw" / "model_paths.json"
    path.write_text(json.dumps({"tiny": {"local_path": str(tmp_path)}}))
    refused(root, "init", "--model", "tiny", "--workspace", root, says=(str(tmp_path), "no config.json", "Gemma 3"))


def hub_model(root: Path) -> None:
    (root / "model" / "raw" / "model_paths.json").write_text(json.dumps({"far": {"huggingface_id": "owner/far"}}))


RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=403)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            GatedRepoError("403", response=RESPONSE),
            ("owner/far is gated", "accept its licence at https://huggingface.co/owner/far", "hf auth login"),
        ),
        (
            RepositoryNotFoundError("404", response=RESPONSE),
            ("owner/far is not on the hub, or private", "hf auth login"),
        ),
        (LocalEntryNotFoundError("offline"), ("the hub cannot be reached", "HF_HUB_OFFLINE", "local_path")),
        (ConnectionError("no route"), ("the hub cannot be reached", "run the same command again")),
        (OSError(errno.ENOSPC, "No space left on device"), ("no space left on the disk", "run the same command again")),
    ],
    ids=["gated", "missing", "offline", "unreachable", "full"],
)
def test_an_error_of_the_hub(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: tuple[str, ...]
) -> None:
    hub_model(root)
    monkeypatch.setattr("lorachain.registry.snapshot_download", raising(error))
    refused(root, "init", "--model", "far", "--workspace", root, says=says)


def test_the_hub_is_unreachable(root: Path) -> None:
    """HF_HUB_OFFLINE is set for all tests, and the cache has no such model."""
    hub_model(root)
    refused(root, "init", "--model", "far", "--workspace", root, says=("owner/far is not in the local cache",))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_cached_model_that_is_incomplete(
    root: Path, tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    hub_model(root)
    snapshot = cached_on_hub("owner/far", save_tiny(), tmp_path)
    (snapshot / missing).unlink()
    monkeypatch.setattr("lorachain.registry.snapshot_download", partial(snapshot_download, cache_dir=tmp_path))
    refused(
        root, "init", "--model", "far", "--workspace", root,
        says=("the local copy of owner/far", f"is incomplete: it lacks {missing}", "without HF_HUB_OFFLINE"),
    )  # fmt: skip


def test_a_local_path_in_the_home_directory(
    root: Path, tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny()
    monkeypatch.setenv("HOME", str(folder.parent))
    entry = ModelEntry(local_path=Path("~") / folder.name)
    assert weights_folder(entry) == folder.resolve()


def cached_on_hub(repository: str, model: Path, cache: Path) -> Path:
    """Moves a model into a hub cache as a snapshot of main."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    return snapshot


def test_the_script_finds_a_cached_hub_model_offline(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    cached_on_hub("owner/tiny", save_tiny(), tmp_path / "hf" / "hub")
    raw = tmp_path / "workspace" / "model" / "raw"
    raw.mkdir(parents=True)
    (raw / "model_paths.json").write_text(json.dumps({"cached": {"huggingface_id": "owner/tiny"}}))
    done = subprocess.run(
        [sys.executable, ROOT / "script" / "init_lora_on_raw.py", "--model", "cached"],
        cwd=tmp_path / "workspace",
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "next: lorachain train 00 --model cached" in done.stderr
    folder = tmp_path / "workspace" / "model" / "raw_lora_added" / "cached"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/tiny"
