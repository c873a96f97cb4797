"""A disk that is full in the middle of a write, truncated files, a clock that runs backwards."""

import json
import shutil
from pathlib import Path

import pytest

from fault_making import Place, Undisturbed, kind
from lorachain.training.checkpoints import MANIFEST, reason_to_skip

WRITES = ("write", "copy a tensor", "merge a tensor", "replace")


def nth_event(undisturbed: Undisturbed, what: str, share: float) -> int:
    """The number of the write of this kind that comes after the `share` of them."""
    numbers = [
        number
        for number, event in enumerate(undisturbed.events, start=1)
        if event[0] in WRITES and kind(*event) == what
    ]
    return numbers[int(share * len(numbers))]


@pytest.mark.parametrize(("what", "share"), [("checkpoint", 0.5), ("merge", 0.5), ("final save", 0.7), ("record", 0.6)])
def test_a_full_disk_keeps_existing_files_and_says_so(undisturbed: Undisturbed, what: str, share: float) -> None:
    part, done = undisturbed.disturb(nth_event(undisturbed, what, share), full=True)
    assert done.code == 2, done.err
    assert "no space left on the disk while writing" in done.err
    assert "existing files are unchanged" in done.err
    assert "run the same command again" in done.err
    assert "Traceback" not in done.err
    manifests = list(undisturbed.place.model.rglob(f"checkpoint-*/{MANIFEST}"))
    assert manifests
    for manifest in manifests:
        assert "settings" in (reason_to_skip(manifest.parent, "") or ""), (
            "every checkpoint is complete, but of another run"
        )
    undisturbed.finish(part)


@pytest.fixture(scope="module")
def interrupted(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workspace after a kill in stage 02, between its last checkpoint and its final save."""
    steps = [n for n, event in enumerate(undisturbed.events, start=1) if event[0] == "optimizer step"]
    assert undisturbed.disturb(steps[-1])[1].code == -9
    return shutil.copytree(undisturbed.place.root, tmp_path_factory.mktemp("interrupted") / "copy")


def restore(place: Place, copy: Path) -> Path:
    """Restores the interrupted workspace; returns its newest checkpoint."""
    shutil.rmtree(place.root)
    shutil.copytree(copy, place.root)
    return max((place.model / "02_training" / "tiny").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))


FILES = (
    *("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("trainer_state.json", "progress.json", MANIFEST),
)


def skip_reason(checkpoint: Path) -> str:
    """Why the checkpoint cannot be resumed from, as the messages give it."""
    fingerprint = json.loads((checkpoint.parent / "run.json").read_text(encoding="utf-8"))["fingerprint"]
    reason = reason_to_skip(checkpoint, fingerprint)
    assert reason is not None
    return reason


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "rng_state.pth"])
def test_a_truncated_file_of_a_checkpoint_makes_the_one_before_count(
    undisturbed: Undisturbed, interrupted: Path, name: str
) -> None:
    """Two of its files; `training/test_checkpoints.py` damages each of them in every way."""
    newest = restore(undisturbed.place, interrupted)
    assert {path.name for path in newest.iterdir()} == set(FILES)
    truncated = newest / name
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    reason = skip_reason(newest)
    assert name in reason
    done = undisturbed.finish(undisturbed.parts[-1])
    assert [line for line in done.err.splitlines() if newest.name in line and reason in line]
    assert f"resuming from checkpoint-{int(newest.name.split('-')[1]) - 1}" in done.err


def test_a_damaged_checkpoint_of_the_best_epoch_is_created_again(undisturbed: Undisturbed, interrupted: Path) -> None:
    restore(undisturbed.place, interrupted)
    best = undisturbed.place.model / "02_training" / "tiny" / "checkpoint-3"
    (best / "optimizer.pt").write_bytes(b"")
    reason = skip_reason(best)
    assert "optimizer.pt" in reason
    done = undisturbed.finish(undisturbed.parts[-1])
    assert f"checkpoint-3 has the best epoch so far, which is repeated: {reason}" in done.err


def test_a_damaged_run_record_costs_no_more_than_the_stage(undisturbed: Undisturbed, interrupted: Path) -> None:
    """For records of any content see `test_edited_files.py`."""
    restore(undisturbed.place, interrupted)
    (undisturbed.place.model / "02_training" / "tiny" / "run.json").write_text('{"fingerprint": 1}')
    err = undisturbed.finish(undisturbed.parts[-1]).err
    assert "its record is damaged or of an older lorachain: it was moved to" in err
    assert err.count("the stage starts from the beginning") == 1


def test_a_clock_that_runs_backwards_changes_nothing(undisturbed: Undisturbed) -> None:
    """While a stage is trained, and while it is merged."""
    part = undisturbed.part("train", "01")
    undisturbed.restore(part)
    done = undisturbed.run(*part.command, clock_runs_backwards=True)
    assert done.code == 0, done.err
    undisturbed.finish(part)
