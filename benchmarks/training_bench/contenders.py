"""The contenders: lorachain, TRL's SFTTrainer, and a plain transformers.Trainer. Each runs in a process of its own.

All three have the same base, the same new LoRA (same seed, so the same numbers), the same packs in the same optimizer
steps, AdamW at a constant learning rate, and gradients clipped at 1.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lorachain.chain.context import load_config
from lorachain.memory import peak
from lorachain.tokens import IGNORE_INDEX, Tokenizer, TokenRow
from lorachain.training.batch_schedule import Pack
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.load import load_tokenizer, plain_model
from lorachain.weights.lora import PeftModel, add_new_lora
from training_bench.counting import model_sizes, step_flops, synchronize
from training_bench.jobs import Job, Variant
from training_bench.models import load_base
from training_bench.workloads import FirstSteps, Workload, read_workload, total_tokens

LEARNING_RATE, MAX_GRAD_NORM = 2e-4, 1.0


class StepClock:
    """Records when each optimizer step ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def tick(self) -> None:
        synchronize(self.device)
        self.ends.append(time.perf_counter())


class _Tick(TrainerCallback):
    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.tick()


def measure(job: Job) -> dict[str, Any]:
    """Trains `job.warmup` and then `job.steps` optimizer steps; only the latter are timed."""
    workload, device = read_workload(Path(job.workload)), torch.device(job.device)
    tokenizer = load_tokenizer(Path(job.tokenizer))
    assert tokenizer.pad_token_id is not None
    schedule = FirstSteps(
        workload.packs,
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
        losses = RUNNERS[job.contender](job, model, schedule, workload, tokenizer, clock, Path(run))
    timed = [row for packs in schedule.packs_by_step()[job.warmup :] for pack in packs for row in pack]
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
        "peak_bytes": peak(device),
        "losses": losses,
        "variant": job.variant,
    }


def train_lorachain(
    job: Job,
    model: PeftModel,
    schedule: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """As in the stages of the chain."""
    settings = TrainingSettings(
        learning_rate=LEARNING_RATE, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM, seed=job.seed, gradient_checkpointing=job.checkpointing, save_every_minutes=1e9,
        keep_checkpoints=1,
    )  # fmt: skip

    def on_step(progress: Progress) -> None:
        clock.tick()

    progress, _ = train(
        model, schedule, settings, run=run, fingerprint="benchmark", on_epoch_end=lambda epoch, step: False,
        on_step=on_step, on_message=print,
    )  # fmt: skip
    return progress.losses


def labels_of(row: TokenRow) -> list[int]:
    """Labels that are not shifted, as transformers and TRL expect them."""
    return [IGNORE_INDEX] * row.supervised_from + row.ids[row.supervised_from :]


def _common_arguments(job: Job, schedule: FirstSteps, workload: Workload, run: Path) -> dict[str, Any]:
    return {
        "output_dir": str(run),
        "max_steps": len(schedule),
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


def recompute_argument(enabled: bool) -> dict[str, bool]:
    """The training argument that recomputes activations: transformers 5.17 has the old name only."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: enabled}


def _train(trainer: Trainer, clock: StepClock) -> list[float]:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Tick(clock))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _plain_collate(pad_id: int, packed: bool) -> Callable[[Sequence[Pack]], dict[str, Tensor]]:
    """Pads single sequences under an attention mask; keeps the documents of full packs apart by position ids."""

    def collate(packs: Sequence[Pack]) -> dict[str, Tensor]:
        width = max(total_tokens(pack) for pack in packs)
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "mask": []}
        for pack in packs:
            padding = width - total_tokens(pack)
            columns["input_ids"].append([i for row in pack for i in row.ids] + [pad_id] * padding)
            columns["labels"].append([i for row in pack for i in labels_of(row)] + [IGNORE_INDEX] * padding)
            positions = [p for row in pack for p in range(len(row))]
            tail = range(len(pack[-1]), len(pack[-1]) + padding)
            columns["mask"].append([*positions, *tail] if packed else [1] * (width - padding) + [0] * padding)
        columns["position_ids" if packed else "attention_mask"] = columns.pop("mask")
        return {name: torch.tensor(values) for name, values in columns.items()}

    return collate


def train_plain(
    job: Job,
    model: PeftModel,
    schedule: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """transformers.Trainer: bf16 weights, and its own loss over full logits."""
    plain_model(model).set_attn_implementation(Variant(**job.variant).attention)
    arguments = TrainingArguments(
        **_common_arguments(job, schedule, workload, run),
        **recompute_argument(job.checkpointing),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    assert tokenizer.pad_token_id is not None
    dataset = [pack for packs in schedule.packs_by_step() for pack in packs]
    collate = _plain_collate(tokenizer.pad_token_id, workload.packed)
    return _train(Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate), clock)


def train_trl(
    job: Job,
    model: PeftModel,
    schedule: FirstSteps,
    workload: Workload,
    tokenizer: Tokenizer,
    clock: StepClock,
    run: Path,
) -> list[float]:
    """TRL's SFTTrainer on packs that are tokenized already, in one of its variants."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    variant = Variant(**job.variant)
    plain_model(model).set_attn_implementation(variant.attention)
    parts = variant.micro_batches or workload.batch_size
    common = _common_arguments(job, schedule, workload, run)
    common["per_device_train_batch_size"] = workload.batch_size // parts
    arguments = SFTConfig(
        **common,
        gradient_accumulation_steps=parts,
        bf16=variant.autocast,
        gradient_checkpointing=variant.checkpointing or job.checkpointing,
        padding_free=variant.padding_free,
        use_liger_kernel=variant.liger,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    if variant.bf16_adapter:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16) if parameter.requires_grad else parameter.data
    rows = [
        {
            "input_ids": [i for row in pack for i in row.ids],
            "labels": [i for row in pack for i in labels_of(row)],
            "seq_lengths": [len(row) for row in pack],
        }
        for packs in schedule.packs_by_step()
        for pack in packs
    ]
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return _train(trainer, clock)


RUNNERS: dict[str, Callable[..., list[float]]] = {
    "lorachain": train_lorachain,
    "trl": train_trl,
    "plain": train_plain,
}
