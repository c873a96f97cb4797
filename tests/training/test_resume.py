"""A run that was killed and resumed equals the run that was not."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chain_making import TWO_LAYERS, make_workspace, options_of, run_command_line
from conftest import TEST_DEVICE, make_multimodal_model, make_text_model
from lorachain.artifacts import read_loss_log
from lorachain.tokens import REJECTED, TokenRow
from lorachain.training import fused_layers
from lorachain.training import layers as layers_module
from lorachain.training import loss as loss_module
from lorachain.training import trainer as trainer_module
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.checkpoints import checkpoint_directory
from lorachain.training.progress import PreferenceSettings, Progress, TrainingSettings
from lorachain.training.trackers import Tracking
from lorachain.training.trainer import train
from lorachain.weights.load import load_model
from lorachain.weights.lora import PeftModel, add_new_lora
from lorachain.workspace import LOSS_LOG, checkpoint_steps

EPOCHS, PACKS, BATCH = 3, 10, 4  # three steps an epoch, nine in all
TIMES = {"seconds", "at", "finished", "tokens_per_second", "peak_memory_bytes", "git_commit"}


class Killed(BaseException):
    """As abrupt as SIGKILL: nothing in lorachain catches it."""


def lora_model(kind: str, dropout: float, quantization: Any, directory: Path) -> PeftModel:
    make = make_text_model if kind == "text" else make_multimodal_model
    base: Any = make(dtype=torch.bfloat16)
    if quantization != "none":
        base.save_pretrained(directory)
        base = load_model(directory, TEST_DEVICE, quantization=quantization)
    return add_new_lora(
        base,
        base_path="b",
        rank=2,
        alpha=4,
        dropout=dropout,
        use_rslora=False,
        target_modules=["q_proj", "v_proj", "down_proj"],
        seed=0,
    )


def packs_of_epoch(epoch: int) -> list[list[TokenRow]]:
    generator = torch.Generator().manual_seed(epoch)
    return [[TokenRow([2, *torch.randint(6, 300, (12,), generator=generator).tolist()], 4)] for _ in range(PACKS)]


def pairs_of_epoch(epoch: int) -> list[list[TokenRow]]:
    """Every other pack has a wrong answer behind the right one."""
    wrong = [replace(row, ids=[*row.ids[:4], *row.ids[:3:-1]], form=REJECTED) for (row,) in packs_of_epoch(epoch)]
    return [[*pack, *([wrong[i]] if i % 2 else [])] for i, pack in enumerate(packs_of_epoch(epoch))]


def go(
    run: Path,
    kind: str,
    dropout: float,
    on_step: Callable[[Progress], None] = lambda progress: None,
    *,
    quantization: str = "none",
    tracking: Tracking | None = None,
    preference: PreferenceSettings | None = None,
) -> tuple[Progress, dict[str, Tensor], list[int], list[str]]:
    """One start of the run: (progress, adapter, epochs that ended in this start, messages)."""
    ended: list[int] = []
    messages: list[str] = []
    packs = packs_of_epoch if preference is None else pairs_of_epoch
    schedule = BatchSchedule(packs, epochs=EPOCHS, batch_size=BATCH, micro_batch_tokens=30, pad_id=0, seed=0)

    def on_epoch_end(epoch: int, step: int) -> bool:
        ended.append(epoch)
        return epoch == 1

    settings = TrainingSettings(
        learning_rate=1e-2,
        warmup_ratio=0.2,
        scheduler="cosine",
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=0,
        gradient_checkpointing=False,
        save_every_minutes=1e-9,  # every step
        keep_checkpoints=2,
        deterministic=TEST_DEVICE.type != "cpu",
        preference=preference,
    )
    progress, tensors = train(
        lora_model(kind, dropout, quantization, run.with_name("base")),
        schedule,
        settings,
        run=run,
        fingerprint="f",
        on_epoch_end=on_epoch_end,
        on_step=on_step,
        on_message=messages.append,
        tracking=tracking,
    )
    return progress, tensors, ended, messages


@pytest.mark.parametrize(
    ("kind", "dropout", "quantization", "preference"),
    [
        *[("text", 0.3, "none", None), ("multimodal", 0.0, "none", None)],
        *[("text", 0.0, "nf4", None), ("multimodal", 0.3, "int8", None)],
        ("text", 0.3, "none", PreferenceSettings(beta=0.5, weight=2.0)),
    ],
)
def test_a_run_killed_after_any_step_and_resumed_equals_the_uninterrupted_run(
    tmp_path: Path, kind: str, dropout: float, quantization: str, preference: PreferenceSettings | None
) -> None:
    """Killed three times: in the first step, within an epoch, and at an epoch's end before its checkpoint."""
    run = partial(go, kind=kind, dropout=dropout, quantization=quantization, preference=preference)
    uninterrupted, expected, _, _ = run(tmp_path / "uninterrupted")
    assert uninterrupted.losses[-1] < uninterrupted.losses[0]
    torch.rand(7)  # the resumed run starts from another random state

    def kill_at(step: int) -> Callable[[Progress], None]:
        def on_step(progress: Progress) -> None:
            if progress.step == step:
                raise Killed

        return on_step

    for step in (1, 5, 6):
        with pytest.raises(Killed):
            run(tmp_path / "killed", on_step=kill_at(step))
    progress, result, ended, messages = run(tmp_path / "killed")
    assert messages == ["resuming from checkpoint-5"]
    assert ended == [2, 3]
    assert progress.losses == uninterrupted.losses
    assert (progress.step, progress.tokens) == (uninterrupted.step, uninterrupted.tokens)
    assert progress.supervised_tokens == uninterrupted.supervised_tokens
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        a, b = (checkpoint_directory(tmp_path / run, 9) / name for run in ("uninterrupted", "killed"))
        assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "killed" / LOSS_LOG).read_bytes() == (tmp_path / "uninterrupted" / LOSS_LOG).read_bytes()


def test_a_resumed_run_with_compiled_layers_equals_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as for a real compiler and computed eagerly. The second start compiles again, as a new process would."""
    monkeypatch.setattr(trainer_module, "choose_layers", lambda *arguments, **options: "compiled")
    eager = partial(fused_layers.compile_fused_layers, backend="aot_eager")
    monkeypatch.setattr(layers_module, "compile_fused_layers", eager)
    monkeypatch.setattr(loss_module, "use_fast_attention", lambda model: None)  # as on CUDA
    two_layers: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    monkeypatch.setitem(globals(), "make_text_model", partial(make_text_model, **two_layers))
    uninterrupted, expected, _, _ = go(tmp_path / "uninterrupted", "text", 0.0)
    shutil.copytree(tmp_path / "uninterrupted", tmp_path / "killed")
    shutil.rmtree(checkpoint_directory(tmp_path / "killed", 9))
    torch._dynamo.reset()
    progress, result, _, messages = go(tmp_path / "killed", "text", 0.0)
    assert messages == ["resuming from checkpoint-8"]
    assert progress.layers == uninterrupted.layers == "compiled"
    assert progress.losses == uninterrupted.losses
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_losses_are_written_step_by_step(tmp_path: Path) -> None:
    progress, _, _, _ = go(tmp_path, "text", 0.0)
    rows = read_loss_log(tmp_path / LOSS_LOG)
    assert [row.step for row in rows] == list(range(1, 10))
    assert [row.loss for row in rows] == progress.losses
    assert rows[-1].num_tokens == progress.tokens
    assert [row.epoch for row in rows][2::3] == [1, 2, 3]
    # Two steps of warm-up of nine: from 0 to the full rate, then along a cosine.
    assert [row.learning_rate for row in rows[:3]] == [0, 5e-3, 1e-2]
    assert rows[-1].learning_rate == pytest.approx(1e-2 * (1 + math.cos(math.pi * 6 / 7)) / 2)
    assert all(row.grad_norm > 0 for row in rows)


def test_tensorboard_has_each_step_of_a_killed_run_once(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracking = Tracking(("tensorboard",), tmp_path / "tracking", "02-abc")

    def kill(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        go(tmp_path / "run", "text", 0.0, kill, tracking=tracking)
    progress, _, _, messages = go(tmp_path / "run", "text", 0.0, tracking=tracking)
    assert messages == ["resuming from checkpoint-4"]
    events = accumulators.EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / "02-abc"))
    events.Reload()
    names = {"train/loss", "train/learning_rate", "train/grad_norm", "train/num_tokens", "train/epoch"}
    assert names <= set(events.Tags()["scalars"])
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == list(range(1, 10))
    assert [event.value for event in logged] == pytest.approx(progress.losses)


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    uninterrupted, expected, _, _ = go(tmp_path / "run", "text", 0.0)
    newest, older = checkpoint_steps(tmp_path / "run")[:2]
    damaged = checkpoint_directory(tmp_path / "run", newest) / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    progress, result, _, messages = go(tmp_path / "run", "text", 0.0)
    assert messages == [
        f"checkpoint-{newest} skipped: optimizer.pt does not match manifest.json",
        f"resuming from checkpoint-{older}",
    ]
    assert progress.losses == uninterrupted.losses
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_the_checkpoint_of_the_best_epoch_is_kept_with_the_newest(tmp_path: Path) -> None:
    go(tmp_path, "text", 0.0)
    assert checkpoint_steps(tmp_path) == [9, 8, 3]


def test_the_learning_rate_schedule_is_part_of_the_state(tmp_path: Path) -> None:
    go(tmp_path, "text", 0.0)
    stored = torch.load(checkpoint_directory(tmp_path, 9) / "scheduler.pt", weights_only=True)
    assert stored["last_epoch"] == 9
    assert stored["_last_lr"][0] == pytest.approx(0, abs=1e-9)


# ---- the command line, in a process of its own -----------------------------------------------------------------------


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def test_sigterm_saves_and_the_same_command_resumes_to_the_same_files(
    tmp_path: Path, save_tiny: Callable[..., Path]
) -> None:
    base = save_tiny("text", **TWO_LAYERS)
    roots = [make_workspace(tmp_path / name, base, measured=False) for name in ("uninterrupted", "killed")]
    for root in roots:
        assert run_command_line("init", *options_of(root))[0] == 0
    # Stage 02 alone, with validation after each of its two epochs.
    command = ("train", "02", "--from-base", "--save-every", "1e-9")
    assert run_command_line(*command, *options_of(roots[0]))[0] == 0

    checkpoints = roots[1] / "model" / "02_training" / "tiny"
    start = "import sys; from lorachain.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *command, *options_of(roots[1])],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        text=True,
    )
    while process.poll() is None and not list(checkpoints.glob("checkpoint-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=200)
    assert process.returncode == 143, messages
    assert "is saved" in messages
    assert "lorachain train 02" in messages
    assert "Traceback" not in messages
    assert not (roots[1] / "model" / "02_trained").exists()

    code, _, messages = run_command_line(*command, *options_of(roots[1]))
    assert code == 0
    assert "resuming from checkpoint-" in messages
    uninterrupted, killed = (root / "model" / "02_trained" / "tiny" for root in roots)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (uninterrupted / name).read_bytes() == (killed / name).read_bytes()
    for name in ("kormedmcqa_validation_results.json", "training_info.json"):
        read = [without_times(json.loads((trained / name).read_text())) for trained in (uninterrupted, killed)]
        for info in read:
            info.get("configuration", {}).pop("training", None)
        assert read[0] == read[1], name
