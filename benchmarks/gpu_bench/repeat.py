"""Twenty optimizer steps twice, and once interrupted and resumed, with and without `deterministic`."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_bench.kept_memory import TARGETS
from gpu_bench.records import Setting
from gpu_bench.workload import random_workload
from lorachain.memory import release
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.lora import add_new_lora
from training_bench.models import load_base
from training_bench.workloads import FirstSteps


class _Interrupted(BaseException):
    pass


def once(setting: Setting, run: Path, *, deterministic: bool, steps: int, stop_at: int = 0) -> dict[str, Any]:
    """Trains a new model, or resumes what an interrupted call with the same `run` left."""
    workload = random_workload("00", pack_length=64 if setting.tiny else 1024, steps=steps)
    schedule = FirstSteps(
        workload.packs, count=steps, batch_size=workload.batch_size, micro_batch_tokens=128 if setting.tiny else 2048,
        pad_id=0, seed=0,
    )  # fmt: skip
    model = add_new_lora(
        load_base(setting.model, torch.device(setting.device), nf4=False), base_path=setting.model, rank=16, alpha=32,
        dropout=0.1, use_rslora=False, target_modules=TARGETS, seed=0,
    )  # fmt: skip
    settings = TrainingSettings(
        learning_rate=2e-4, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0, max_grad_norm=1.0, seed=0,
        gradient_checkpointing=False, save_every_minutes=1e9, keep_checkpoints=1, save_every_steps=max(1, steps // 2),
        deterministic=deterministic,
    )  # fmt: skip

    def on_step(progress: Progress) -> None:
        if progress.step == stop_at:
            raise _Interrupted

    progress, tensors = train(
        model, schedule, settings, run=run, fingerprint="repeat", on_epoch_end=lambda epoch, step: False,
        on_step=on_step, on_message=lambda text: None,
    )  # fmt: skip
    del model
    release()
    return {"losses": progress.losses, "seconds": progress.seconds, "tensors": tensors}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def run(setting: Setting) -> None:
    steps = 4 if setting.tiny else 20
    for deterministic in (True, False):
        with tempfile.TemporaryDirectory() as work:
            first = once(setting, Path(work) / "first", deterministic=deterministic, steps=steps)
            second = once(setting, Path(work) / "second", deterministic=deterministic, steps=steps)
            place = Path(work) / "interrupted"
            try:
                once(setting, place, deterministic=deterministic, steps=steps, stop_at=steps // 2 + 1)
            except _Interrupted:
                release()
            resumed = once(setting, place, deterministic=deterministic, steps=steps)
        setting.write(
            "repeat", deterministic=deterministic, steps=steps, seconds=first["seconds"],
            same_twice=first["losses"] == second["losses"], same_resumed=first["losses"] == resumed["losses"],
            adapter_difference_twice=difference(first["tensors"], second["tensors"]),
            adapter_difference_resumed=difference(first["tensors"], resumed["tensors"]),
        )  # fmt: skip
