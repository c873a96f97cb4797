"""A checkpoint that somebody edited, its manifest too, is skipped or refused with a message, and changes no result."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import SMALL, make_workspace, options_of, run_command_line
from lorachain.artifacts import TransformersState
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    """A workspace with stage 00 trained and a checkpoint in its middle."""
    parent = tmp_path_factory.mktemp("trained")
    root = make_workspace(parent / "workspace", save_tiny_in(parent))
    (root / "chain.toml").write_text(SMALL.replace("[training]", "[training]\nsave_every_steps = 10"), encoding="utf-8")
    for command in (("init",), ("train", "00")):
        code, _, err = run_command_line(*command, *options_of(root))
        assert code == 0, err
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy without the result, which its checkpoints would give again."""
    copied = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(copied / "model" / "00_trained")
    return copied


def newest(root: Path) -> Path:
    run = root / "model" / "00_training" / "tiny"
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))


def write_with_manifest(checkpoint: Path, name: str, content: bytes | None) -> None:
    """Replaces or removes a file and makes the manifest match."""
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    if content is None:
        (checkpoint / name).unlink()
        del manifest["files"][name]
    else:
        (checkpoint / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def edited(checkpoint: Path, name: str, **changes: Any) -> bytes:
    return json.dumps(json.loads((checkpoint / name).read_text(encoding="utf-8")) | changes).encode()


CONTROL = {"args": {"should_save": False}, "attributes": {}}


def each(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


STATES = [
    *each("global_step", 0, 1, 10**9, -1, None, "29", 1.5, True),
    *each("epoch", None, "x", -1.0, float("nan")),
    *each("max_steps", "9", None, -1),
    *each("log_history", [{"loss": 1}], None),
    *each("stateful_callbacks", [], {"_StepCallback": CONTROL}, {"TrainerControl": [CONTROL]}),
    *each("stateful_callbacks", {"TrainerControl": {"args": {}, "attributes": {"should_save": "x"}}}),
    *each("stateful_callbacks", {"TrainerControl": {"args": {"should_save": 3}, "attributes": {}}}),
    *({"best_model_checkpoint": "/etc"}, {"trial_params": {"a": 1}}, {"is_hyper_param_search": True}, {"unknown": 1}),
]


@pytest.mark.parametrize("changes", STATES, ids=str)
def test_a_trainer_state_that_no_run_leaves(changes: dict[str, Any], root: Path, trained: Path) -> None:
    checkpoint = newest(root)
    write_with_manifest(checkpoint, "trainer_state.json", edited(checkpoint, "trainer_state.json", **changes))
    resumes_before(root, trained, checkpoint.name)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("name", ["trainer_state.json", "progress.json"])
def test_a_state_that_is_no_json_object(name: str, content: bytes, root: Path, trained: Path) -> None:
    checkpoint = newest(root)
    write_with_manifest(checkpoint, name, content)
    resumes_before(root, trained, checkpoint.name)


@pytest.mark.parametrize("changes", [{"step": 3}, {"losses": [1.0]}, {"losses": []}, {"tokens": "x"}], ids=str)
def test_progress_of_another_step(changes: dict[str, Any], root: Path, trained: Path) -> None:
    checkpoint = newest(root)
    write_with_manifest(checkpoint, "progress.json", edited(checkpoint, "progress.json", **changes))
    resumes_before(root, trained, checkpoint.name)


def test_a_checkpoint_under_another_number(root: Path, trained: Path) -> None:
    checkpoint = newest(root)
    checkpoint.rename(checkpoint.with_name("checkpoint-999"))
    resumes_before(root, trained, "checkpoint-999")


def resumes_before(root: Path, trained: Path, skipped: str) -> None:
    """From an earlier checkpoint, to the same adapter."""
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert code == 0, err
    assert f"{skipped} skipped: " in err
    name = "model/00_trained/tiny/adapter_model.safetensors"
    assert sha256_file(root / name) == sha256_file(trained / name)


LOADED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
CONTENTS = (None, b"", b"text", b"PK\x03\x04")
# Of several processes each has its own rng_state: it is not required.
UNUSABLE = [(name, content) for name in LOADED for content in CONTENTS if (name, content) != ("rng_state.pth", None)]


@pytest.mark.parametrize(("name", "content"), UNUSABLE, ids=str)
def test_files_that_cannot_be_resumed_from(name: str, content: bytes | None, root: Path) -> None:
    shutil.rmtree(newest(root))  # after the last step no random numbers are drawn
    checkpoint = newest(root)
    write_with_manifest(checkpoint, name, content)
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert "Traceback" not in err
    if name == "trainer_state.json" and content is not None:
        assert code == 0, err
        assert f"{checkpoint.name} skipped: " in err
    else:
        assert code == 2, err
        assert f"{checkpoint} cannot be resumed from" in err
        assert "remove that directory" in err


def test_what_a_run_leaves_is_read(trained: Path, tmp_path: Path) -> None:
    checkpoints = list((trained / "model" / "00_training" / "tiny").glob("checkpoint-*"))
    assert len(checkpoints) > 1
    for checkpoint in checkpoints:
        state = TransformersState.read(checkpoint / "trainer_state.json")
        assert checkpoint.name == f"checkpoint-{state.global_step}"
    with pytest.raises(WorkspaceError, match="cannot be read"):
        TransformersState.read(tmp_path / "nothing")
