"""Only a complete checkpoint of the same run is resumed from, whatever else is in the directory."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from transformers import TrainerState

from lorachain.artifacts import TrainingProgress
from lorachain.atomic import STAGING_SUFFIX
from lorachain.errors import WorkspaceError
from lorachain.training.checkpoints import (
    MANIFEST,
    PROGRESS,
    TRAINER_STATE,
    checkpoint_directory,
    keep_only,
    newest_complete,
    reason_to_skip,
    save_checkpoint,
    unusable_as_error,
)
from lorachain.workspace import checkpoint_steps

FILES = {
    "adapter_model.safetensors": save({"weight": torch.ones(3)}),
    "optimizer.pt": b"moments",
    "nested/rng_state.pth": b"random state",
}


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write(directory: Path) -> None:
    for name, content in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three complete checkpoints of the run `mine`."""
    for step in (2, 10, 9):
        save_checkpoint(tmp_path, step, "mine", write)
    return tmp_path


def test_the_newest_by_number_is_found(run: Path) -> None:
    search = newest_complete(run, "mine")
    assert search.directory == checkpoint_directory(run, 10)
    assert search.skipped == []
    assert checkpoint_steps(run) == [10, 9, 2]


def test_an_empty_or_missing_directory_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path, "mine").directory is None
    assert newest_complete(tmp_path / "nowhere", "mine").directory is None


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [remove, cut, empty, flip])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_checkpoint_with_a_damaged_file_is_skipped_with_the_reason(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(checkpoint_directory(run, 10) / name)
    search = newest_complete(run, "mine")
    if name == MANIFEST and damage is cut:  # only the final line feed is cut off
        assert search.directory == checkpoint_directory(run, 10)
        return
    assert search.directory == checkpoint_directory(run, 9)
    (reason,) = search.skipped
    assert reason.startswith("checkpoint-10 skipped: ")
    assert name.split("/")[-1] in reason or MANIFEST in reason


def test_a_manifest_cut_at_any_byte_is_never_complete(run: Path) -> None:
    path = checkpoint_directory(run, 10) / MANIFEST
    content = path.read_bytes()
    for length in range(len(content.rstrip())):
        path.write_bytes(content[:length])
        assert reason_to_skip(path.parent, "mine") is not None, length


def test_a_checkpoint_with_an_additional_file_is_skipped(run: Path) -> None:
    (checkpoint_directory(run, 10) / "stranger.pt").write_bytes(b"x")
    assert "stranger.pt" in (reason_to_skip(checkpoint_directory(run, 10), "mine") or "")


@pytest.mark.parametrize("manifest", ["[]", "null", '"text"', "{}", '{"files": null, "fingerprint": "mine"}', "\x00"])
def test_a_manifest_with_other_content_is_broken(run: Path, manifest: str) -> None:
    (checkpoint_directory(run, 10) / MANIFEST).write_text(manifest)
    assert "missing or damaged" in (reason_to_skip(checkpoint_directory(run, 10), "mine") or "")


def test_a_checkpoint_of_other_settings_is_never_resumed(run: Path) -> None:
    search = newest_complete(run, "another")
    assert search.directory is None
    assert len(search.skipped) == 3
    assert all("other settings or data" in reason for reason in search.skipped)


def test_other_directories_and_files_are_ignored(run: Path) -> None:
    for name in ("checkpoint-", "checkpoint-12x", "checkpoint--5", "checkpoint-best", ".checkpoint-99.partial"):
        (run / name).mkdir()
    (run / "checkpoint-50").write_text("a file")
    assert checkpoint_steps(run) == [10, 9, 2]
    assert newest_complete(run, "mine").directory == checkpoint_directory(run, 10)


def test_a_failed_save_leaves_earlier_checkpoints_and_nothing_else(run: Path) -> None:
    before = sorted(run.rglob("*"))

    def full(directory: Path) -> None:
        write(directory)
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkspaceError, match=r"no space left on the disk.*unchanged"):
        save_checkpoint(run, 11, "mine", full)
    assert sorted(run.rglob("*")) == before


def test_saving_a_step_again_replaces_it(run: Path) -> None:
    save_checkpoint(run, 10, "mine", lambda directory: put(directory / "only", b"new"))
    manifest = json.loads((checkpoint_directory(run, 10) / MANIFEST).read_text())
    assert manifest["files"].keys() == {"only"}
    assert newest_complete(run, "mine").directory == checkpoint_directory(run, 10)


def test_keep_only_removes_what_interrupted_writes_left(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Staging directories of checkpoints, whatever is in them; nobody else's, and nothing behind a link."""
    outside = tmp_path_factory.mktemp("outside")
    write(outside)
    leftover = run / f".checkpoint-7.abc{STAGING_SUFFIX}"
    leftover.mkdir()
    write(leftover)
    kept = [run / f".other.abc{STAGING_SUFFIX}", run / ".checkpoint-8.partial"]
    for directory in kept:
        directory.mkdir()
    kept.append(run / f".checkpoint-9.file{STAGING_SUFFIX}")
    kept[-1].write_text("x")
    link = run / f".checkpoint-9.abc{STAGING_SUFFIX}"
    link.symlink_to(outside)
    keep_only(run, [10])
    assert not leftover.exists()
    assert all(directory.exists() for directory in (*kept, link))
    assert sorted(path.name for path in outside.iterdir())
    assert checkpoint_steps(run) == [10]


def test_keep_only_removes_the_rest(run: Path) -> None:
    (run / "run.json").write_text("{}")
    keep_only(run, [2, 10, 77])
    assert checkpoint_steps(run) == [10, 2]
    assert (run / "run.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_with_weights_that_are_not_finite_is_skipped(run: Path, value: float, dtype: torch.dtype) -> None:
    """As an earlier version could write them: with a manifest that matches."""

    def write_spoiled(directory: Path) -> None:
        write(directory)
        weights = {"a": torch.ones(2, dtype=dtype), "b": torch.tensor([1.0, value], dtype=dtype)}
        (directory / "adapter_model.safetensors").write_bytes(save(weights))

    save_checkpoint(run, 11, "mine", write_spoiled)
    search = newest_complete(run, "mine")
    assert search.directory == checkpoint_directory(run, 10)
    assert search.skipped == ["checkpoint-11 skipped: adapter_model.safetensors: b is not finite (NaN or infinite)"]


def test_a_checkpoint_whose_weights_cannot_be_read_is_skipped(run: Path) -> None:
    save_checkpoint(run, 11, "mine", lambda directory: put(directory / "x.safetensors", b"no"))
    (reason,) = newest_complete(run, "mine").skipped
    assert reason.startswith("checkpoint-11 skipped: x.safetensors cannot be read: ")


def progress_of(step: int, losses: int) -> bytes:
    progress = TrainingProgress(step=step, tokens=1, supervised_tokens=1, seconds=1.0, losses=(1.0,) * losses)
    return json.dumps(progress.as_dict()).encode()


def state_of(step: int, **more: object) -> bytes:
    state = asdict(TrainerState(global_step=step, epoch=1.0, max_steps=20, num_train_epochs=2))
    return json.dumps(state | {"eval_steps": 1, "logging_steps": 1, "save_steps": 1} | more).encode()


@pytest.mark.parametrize(
    ("progress", "state", "message"),
    [
        (progress_of(11, 11), state_of(11), None),
        (progress_of(11, 11), None, None),
        (None, state_of(11), None),
        (progress_of(9, 11), state_of(11), "its progress is that of step 9"),
        (progress_of(11, 9), state_of(11), "its progress is that of step 9"),
        (progress_of(11, 11), state_of(10), "its progress is that of step 10"),
        (b"{}", None, "progress.json"),
        (None, b"[]", "trainer_state.json"),
        (None, state_of(11, unknown_key=1), "is not one of this version of transformers"),
    ],
)
def test_progress_and_state_must_be_of_the_checkpoints_step(
    tmp_path: Path, progress: bytes | None, state: bytes | None, message: str | None
) -> None:
    """Whoever edits them can edit the manifest too."""

    def write_states(directory: Path) -> None:
        for name, content in ((PROGRESS, progress), (TRAINER_STATE, state)):
            if content is not None:
                put(directory / name, content)

    save_checkpoint(tmp_path, 11, "mine", write_states)
    reason = reason_to_skip(checkpoint_directory(tmp_path, 11), "mine")
    assert reason is None if message is None else message in str(reason)


def test_a_checkpoint_under_the_name_of_another_step_is_skipped(run: Path) -> None:
    checkpoint_directory(run, 10).rename(checkpoint_directory(run, 12))
    search = newest_complete(run, "mine")
    assert search.skipped == ["checkpoint-12 skipped: its manifest.json is of step 10"]
    assert (search.directory, search.step) == (checkpoint_directory(run, 9), 9)


@pytest.mark.parametrize(("before", "step"), [(None, 10), (11, 10), (10, 9), (9, 2), (3, 2), (2, 0)])
def test_the_newest_before_a_step(run: Path, before: int | None, step: int) -> None:
    assert newest_complete(run, "mine", before=before).step == step


def test_what_a_foreign_file_raises_is_one_message(run: Path) -> None:
    message = r"checkpoint-10 cannot be resumed from \(KeyError: 'x{199}\)"
    with pytest.raises(WorkspaceError, match=message), unusable_as_error(checkpoint_directory(run, 10)):
        raise KeyError("x" * 300)
    with pytest.raises(WorkspaceError, match=r"^as it is$"), unusable_as_error(run):
        raise WorkspaceError("as it is")
