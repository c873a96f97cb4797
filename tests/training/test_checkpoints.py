"""Only a whole checkpoint of the same run is resumed from, whatever lies in the folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lorachain.errors import WorkspaceError
from lorachain.training.checkpoints import (
    MANIFEST,
    checkpoint_folder,
    keep_only,
    newest_whole,
    save_checkpoint,
    steps_present,
    why_not_whole,
)

FILES = {"adapter_model.safetensors": b"weights", "optimizer.pt": b"moments", "nested/rng_state.pth": b"dice"}


def write(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three whole checkpoints of the run `mine`."""
    for step in (2, 10, 9):
        save_checkpoint(tmp_path, step, "mine", write)
    return tmp_path


def test_the_newest_by_number_is_found(run: Path) -> None:
    found = newest_whole(run, "mine")
    assert found.folder == checkpoint_folder(run, 10)
    assert found.passed_over == []
    assert steps_present(run) == [10, 9, 2]


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path, "mine").folder is None
    assert newest_whole(tmp_path / "nowhere", "mine").folder is None


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
def test_each_file_damaged_in_turn_is_passed_over_with_the_reason(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(checkpoint_folder(run, 10) / name)
    found = newest_whole(run, "mine")
    if name == MANIFEST and damage is cut:  # only the last line feed is gone: nothing is lost
        assert found.folder == checkpoint_folder(run, 10)
        return
    assert found.folder == checkpoint_folder(run, 9)
    (reason,) = found.passed_over
    assert reason.startswith("checkpoint-10 passed over: ")
    assert name.split("/")[-1] in reason or MANIFEST in reason


def test_the_manifest_cut_at_every_byte_is_never_taken_for_whole(run: Path) -> None:
    path = checkpoint_folder(run, 10) / MANIFEST
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        assert why_not_whole(path.parent, "mine") is not None, length


def test_a_file_too_many_is_no_whole_checkpoint(run: Path) -> None:
    (checkpoint_folder(run, 10) / "stranger.pt").write_bytes(b"x")
    assert "stranger.pt" in (why_not_whole(checkpoint_folder(run, 10), "mine") or "")


@pytest.mark.parametrize("manifest", ["[]", "null", '"text"', "{}", '{"files": null, "fingerprint": "mine"}', "\x00"])
def test_a_manifest_of_another_shape_is_broken(run: Path, manifest: str) -> None:
    (checkpoint_folder(run, 10) / MANIFEST).write_text(manifest)
    assert "missing or broken" in (why_not_whole(checkpoint_folder(run, 10), "mine") or "")


def test_a_checkpoint_of_other_settings_is_never_resumed(run: Path) -> None:
    found = newest_whole(run, "another")
    assert found.folder is None
    assert len(found.passed_over) == 3
    assert all("other settings or data" in reason for reason in found.passed_over)


def test_foreign_folders_and_files_are_not_looked_at(run: Path) -> None:
    for name in ("checkpoint-", "checkpoint-12x", "checkpoint--5", "checkpoint-best", ".checkpoint-99.partial"):
        (run / name).mkdir()
    (run / "checkpoint-50").write_text("a file")
    assert steps_present(run) == [10, 9, 2]
    assert newest_whole(run, "mine").folder == checkpoint_folder(run, 10)


def test_a_failed_save_leaves_the_earlier_ones_and_nothing_half(run: Path) -> None:
    before = sorted(run.rglob("*"))

    def full(folder: Path) -> None:
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkspaceError, match=r"no space left on the disk.*intact"):
        save_checkpoint(run, 11, "mine", full)
    assert sorted(run.rglob("*")) == before


def test_saving_a_step_again_replaces_it(run: Path) -> None:
    save_checkpoint(run, 10, "mine", lambda folder: (folder / "only").write_bytes(b"new") and None)
    manifest = json.loads((checkpoint_folder(run, 10) / MANIFEST).read_text())
    assert manifest["files"].keys() == {"only"}
    assert newest_whole(run, "mine").folder == checkpoint_folder(run, 10)


def test_keep_only_removes_the_rest(run: Path) -> None:
    (run / "run.json").write_text("{}")
    keep_only(run, [2, 10, 77])
    assert steps_present(run) == [10, 2]
    assert (run / "run.json").exists()
