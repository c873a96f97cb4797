"""Who trains: this package, TRL's SFTTrainer, and a plain transformers.Trainer. Each runs in a process of its own.

All three get the same base, the same fresh LoRA (same seed, so the same numbers), the same optimizer steps with the
same rows in them, AdamW at a constant learning rate, and gradients clipped at 1. What differs is what each makes of it.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lorachain.config import load_config
from lorachain.tokens import IGNORE_INDEX, Tokenizer, TokenRow
from lorachain.training.batch_schedule import Line
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.load import load_tokenizer, plain_model
from lorachain.weights.lora import PeftModel, add_new_lora
from training_bench.counting import model_sizes, peak_memory, step_flops, synchronise
from training_bench.jobs import Job, Variant
from training_bench.models import load_base
from training_bench.workloads import FirstSteps, Workload, read_workload, total_tokens

LEARNING_RATE, MAX_GRAD_NORM = 2e-4, 1.0


class StepClock:
    """When each optimizer step ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def tick(self) -> None:
        synchronise(self.device)
        self.ends.append(time.perf_counter())


class _Tick(TrainerCallback):
    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.tick()


def measure(job: Job) -> dict[str, Any]:
    """Trains `job.warmup` and then `job.steps` optimizer steps; the clock runs over the latter."""
    workload, device = read_workload(Path(job.workload)), torch.device(job.device)
    tokenizer = load_tokenizer(Path(job.tokenizer))
    assert tokenizer.pad_token_id is not None
    steps = FirstSteps(
        workload.lines,
        count=job.warmup + job.steps,
        batch_size=workload.batch_size,
        micro_batch_tokens=job.micro_batch_tokens,
        pad_id=tokenizer.pad_token_id,
        seed=job.seed,
    )
    base = load_base(job.model, device, nf4=job.nf4)
    sizes = model_sizes(base)
    lora = load_config().lora
    model = add_new_lora(
        base, base_path=job.model, rank=job.rank, alpha=2 * job.rank, dropout=0.0, use_rslora=lora.use_rslora,
        target_modules=job.targets, seed=job.seed,
    )  # fmt: skip
    clock = StepClock(device)
    clock.tick()
    with tempfile.TemporaryDirectory() as run:
        losses = RUNNERS[job.contender](job, model, steps, workload, tokenizer, clock, Path(run))
    timed = [row for step in steps.all_lines()[job.warmup :] for line in step for row in line]
    seconds = clock.ends[-1] - clock.ends[job.warmup]
    return {
        "contender": job.contender,
        "workload": workload.name,
        "tokens": total_tokens(timed),
        "supervised": sum(row.supervised for row in timed),
        "seconds": seconds,
        "step_seconds": [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)],
        "tokens_per_second": total_tokens(timed) / seconds,
        "flops_per_second": step_flops(timed, sizes) / seconds,
        "peak_bytes": peak_memory(device),
        "losses": losses,
        "variant": job.variant,
    }


def train_lorachain(
    job: Job,
    model: PeftModel,
    steps: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """As the chain's stages train."""
    settings = TrainingSettings(
        learning_rate=LEARNING_RATE, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM, seed=job.seed, gradient_checkpointing=job.checkpointing, save_every_minutes=1e9,
        keep_checkpoints=1,
    )  # fmt: skip

    def on_step(progress: Progress) -> None:
        clock.tick()

    progress, _ = train(
        model, steps, settings, run=run, fingerprint="benchmark", on_epoch_end=lambda epoch, step: False,
        on_step=on_step, on_message=print,
    )  # fmt: skip
    return progress.losses


def labels_of(row: TokenRow) -> list[int]:
    """Not shifted: as transformers and TRL want them."""
    return [IGNORE_INDEX] * row.supervised_from + row.ids[row.supervised_from :]


def _common_arguments(job: Job, steps: FirstSteps, workload: Workload, run: Path) -> dict[str, Any]:
    return {
        "output_dir": str(run),
        "max_steps": len(steps),
        "per_device_train_batch_size": workload.batch_size,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": MAX_GRAD_NORM,
        "use_cpu": job.device == "cpu",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "seed": job.seed,
    }


def _train(trainer: Trainer, clock: StepClock) -> list[float]:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Tick(clock))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _plain_collate(pad_id: int, packed: bool) -> Callable[[Sequence[Line]], dict[str, Tensor]]:
    """Exam rows are padded under an attention mask; the documents of full packs are kept apart by position ids."""

    def collate(lines: Sequence[Line]) -> dict[str, Tensor]:
        width = max(total_tokens(line) for line in lines)
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "mask": []}
        for line in lines:
            room = width - total_tokens(line)
            columns["input_ids"].append([i for row in line for i in row.ids] + [pad_id] * room)
            columns["labels"].append([i for row in line for i in labels_of(row)] + [IGNORE_INDEX] * room)
            positions = [p for row in line for p in range(len(row))]
            tail = range(len(line[-1]), len(line[-1]) + room)
            columns["mask"].append([*positions, *tail] if packed else [1] * (width - room) + [0] * room)
        columns["position_ids" if packed else "attention_mask"] = columns.pop("mask")
        return {name: torch.tensor(values) for name, values in columns.items()}

    return collate


def train_plain(
    job: Job,
    model: PeftModel,
    steps: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """transformers.Trainer: bf16 weights, its own loss over full logits."""
    plain_model(model).set_attn_implementation(Variant(**job.variant).attention)
    arguments = TrainingArguments(
        **_common_arguments(job, steps, workload, run),
        gradient_checkpointing=job.checkpointing,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    assert tokenizer.pad_token_id is not None
    lines = [line for step in steps.all_lines() for line in step]
    collate = _plain_collate(tokenizer.pad_token_id, workload.packed)
    return _train(Trainer(model=model, args=arguments, train_dataset=lines, data_collator=collate), clock)


def train_trl(
    job: Job,
    model: PeftModel,
    steps: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """TRL's SFTTrainer on rows that are tokenized and packed already, in one of its variants."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    variant = Variant(**job.variant)
    plain_model(model).set_attn_implementation(variant.attention)
    parts = variant.micro_batches or workload.batch_size
    common = _common_arguments(job, steps, workload, run)
    common["per_device_train_batch_size"] = workload.batch_size // parts
    arguments = SFTConfig(
        **common,
        gradient_accumulation_steps=parts,
        bf16=variant.autocast,
        gradient_checkpointing=variant.checkpointing or job.checkpointing,
        padding_free=variant.padding_free,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    if variant.bf16_adapter:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16) if parameter.requires_grad else parameter.data
    rows = [
        {
            "input_ids": [i for row in line for i in row.ids],
            "labels": [i for row in line for i in labels_of(row)],
            "seq_lengths": [len(row) for row in line],
        }
        for step in steps.all_lines()
        for line in step
    ]
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return _train(trainer, clock)


RUNNERS: dict[str, Callable[..., list[float]]] = {
    "lorachain": train_lorachain,
    "trl": train_trl,
    "plain": train_plain,
}
