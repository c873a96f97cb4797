"""`transformers.Trainer` with our loss, our steps, and checkpoints that can be trusted.

What is changed: a step's micro-batches share one normalizer, checkpoints are written beside and renamed, the adapter's
float32 masters are what is saved, and each epoch's end calls back to the stage (which validates).
"""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lorachain.training.activations import needs_checkpointing
from lorachain.training.batch_schedule import BatchSchedule, StepInputs
from lorachain.training.checkpoints import CheckpointSearch, keep_only, newest_whole, save_checkpoint, steps_present
from lorachain.training.distributed import Processes
from lorachain.training.interrupts import SignalFlag, TrainingInterrupted, signals_finish_the_step
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.optimizer import MasterWeightAdamW, master_tensors
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.weights.load import plain_model
from lorachain.weights.lora import (
    ADAPTER_WEIGHTS,
    PeftModel,
    adapter_tensors,
    check_trainable,
    save_adapter,
    set_adapter_tensors,
)

PROGRESS = "progress.json"

EpochEnd = Callable[[int, int], bool]
"""(epoch from 1, step) -> whether this epoch's adapter is the best so far, and is to be kept."""


class _ChainTrainer(Trainer):
    """See the module's docstring. One instance trains one stage once."""

    def __init__(
        self,
        model: PeftModel,
        steps: BatchSchedule,
        settings: TrainingSettings,
        processes: Processes,
        run: Path,
        fingerprint: str,
    ) -> None:
        self.peft_model = model
        self.steps = steps
        self.settings = settings
        self.processes = processes
        self.run = run
        self.fingerprint = fingerprint
        self.progress = Progress()
        self.kept_steps: set[int] = set()
        arguments = TrainingArguments(
            output_dir=str(run),
            max_steps=len(steps),
            per_device_train_batch_size=1,  # one item of BatchSchedule is one optimizer step
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=round(settings.warmup_ratio * len(steps)),
            max_grad_norm=settings.max_grad_norm,
            seed=settings.seed,
            use_cpu=plain_model(model).device.type == "cpu",
            save_strategy="no",  # the callback below asks for checkpoints
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
        )
        super().__init__(model=SupervisedLanguageModel(model), args=arguments, train_dataset=steps)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[StepInputs]:
        # Not prepared by accelerate: `BatchSchedule` already gives each process its share of a step.
        return DataLoader(self.steps, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trainable = [p for p in self.peft_model.parameters() if p.requires_grad]
            self.optimizer = MasterWeightAdamW(
                trainable,
                compute_dtype=plain_model(self.peft_model).dtype,
                lr=self.settings.learning_rate,
                weight_decay=self.settings.weight_decay,
            )
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """All micro-batches of a step; their losses share the step's count of supervised tokens over all processes."""
        started = time.perf_counter()
        model.train()
        world = self.accelerator.num_processes
        # DDP averages gradients over processes, the loss is normalized over all of them: undo the average.
        normalizer = inputs["normalizer"].to(self.args.device) / world
        loss = torch.zeros((), device=self.args.device)
        batches = inputs["micro_batches"]
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            self.accelerator.sync_gradients = last  # where Trainer itself averages a sharded model's LoRA gradients
            on_device = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with nullcontext() if last else self.accelerator.no_sync(model):
                micro_loss = model(**on_device, normalizer=normalizer)
                self.accelerator.backward(micro_loss)
            loss += micro_loss.detach()
        loss = self.accelerator.reduce(loss / world, reduction="sum") if world > 1 else loss
        self.progress.losses.append(loss.item())
        self.progress.tokens += inputs["tokens"]
        self.progress.supervised_tokens += inputs["supervised"]
        self.progress.seconds += time.perf_counter() - started
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # transformers' estimate would count the embeddings as computed and knows nothing of LoRA

    def tensors_to_save(self) -> dict[str, Tensor]:
        """The adapter's float32 masters under PEFT's names; before the first step, the adapter as it stands."""
        stored = adapter_tensors(self.peft_model)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(optimizer, MasterWeightAdamW):
            return stored
        # PEFT stores `….lora_A.weight` for the parameter `….lora_A.default.weight`.
        names = [n.replace(".default.", ".") for n, p in self.peft_model.named_parameters() if p.requires_grad]
        masters = master_tensors(optimizer, names)
        if masters.keys() != stored.keys():
            raise RuntimeError("the optimizer's masters are not the adapter's tensors")
        return masters

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.progress.step = self.state.global_step
        random_states = self.processes.all_gather(self._random_state())
        if self.processes.main:
            self._write_checkpoint(dict(random_states))
        self.processes.wait()

    def _random_state(self) -> tuple[str, bytes]:
        """Name and content of the file that Trainer would write of this process' generators."""
        with TemporaryDirectory() as scratch:
            self._save_rng_state(scratch)
            (path,) = Path(scratch).iterdir()
            return path.name, path.read_bytes()

    def _write_checkpoint(self, random_states: dict[str, bytes]) -> None:
        def write(folder: Path) -> None:
            save_adapter(self.peft_model, folder, self.tensors_to_save())
            self._save_optimizer_and_scheduler(str(folder))
            for name, content in random_states.items():
                (folder / name).write_bytes(content)
            self.state.save_to_json(str(folder / "trainer_state.json"))
            (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)), encoding="utf-8")

        save_checkpoint(self.run, self.state.global_step, self.fingerprint, write)
        self.keep_newest(self.state.global_step)

    def keep_newest(self, step: int) -> None:
        """Removes old checkpoints, and those after `step`, where the run stands: they are not whole."""
        newest = [s for s in steps_present(self.run) if s <= step][: self.settings.keep_checkpoints]
        keep_only(self.run, {step, *newest, *self.kept_steps})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The adapter and the progress; the optimizer's masters, loaded after this, overwrite the rounded factors."""
        folder = Path(resume_from_checkpoint)
        set_adapter_tensors(self.peft_model, load_file(folder / ADAPTER_WEIGHTS))
        self.progress = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


class _Pace(TrainerCallback):
    """Decides after each step: epoch end, checkpoint, interruption, progress bar."""

    def __init__(
        self,
        trainer: _ChainTrainer,
        flag: SignalFlag,
        on_epoch_end: EpochEnd,
        on_step: Callable[[Progress], None],
    ) -> None:
        self.trainer = trainer
        self.flag = flag
        self.call_epoch_end = on_epoch_end
        self.call_step = on_step
        self.saved_at = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        steps_per_epoch = self.trainer.steps.steps_per_epoch
        settings = self.trainer.settings
        self.trainer.progress.step = state.global_step
        self.call_step(self.trainer.progress)
        if state.global_step % steps_per_epoch == 0:
            epoch = state.global_step // steps_per_epoch
            if self.call_epoch_end(epoch, state.global_step):
                self.trainer.kept_steps = {state.global_step}
            control.should_save = True
        if settings.save_every_steps and state.global_step % settings.save_every_steps == 0:
            control.should_save = True
        # One process' clock decides, and a signal that reached one of them stops all: they go in step.
        overdue = time.monotonic() - self.saved_at > 60 * settings.save_every_minutes
        everyone = self.trainer.processes.all_gather((overdue, self.flag.received))
        if everyone[0][0]:
            control.should_save = True
        self.flag.received = next((signal for _, signal in everyone if signal is not None), None)
        if self.flag.received is not None:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved_at = time.monotonic()


def train(
    model: PeftModel,
    steps: BatchSchedule,
    settings: TrainingSettings,
    *,
    run: Path,
    fingerprint: str,
    on_epoch_end: EpochEnd,
    on_step: Callable[[Progress], None],
    on_message: Callable[[str], None],
    found: CheckpointSearch | None = None,
    best_step: int | None = None,
    processes: Processes | None = None,
) -> tuple[Progress, dict[str, Tensor]]:
    """Trains the adapter, going on from the newest whole checkpoint of the same fingerprint in `run`.

    Args:
        run: the folder of checkpoints.
        fingerprint: what settings and data the run was started with; goes into each checkpoint's manifest.
        found: the checkpoint to go on from, where the caller has looked already.
        best_step: step of the best epoch so far, where validation before an interruption found one: its checkpoint
            is kept.
        processes: those that share each step; `steps` must be this one's share.

    Returns:
        What was done, and the adapter's tensors (float32, PEFT's names).

    Raises:
        TrainingInterrupted: on SIGTERM or Ctrl+C, after saving.
        WorkspaceError: the disk is full.
        AdapterError: something other than the LoRA would be trained.
    """
    check_trainable(model)
    processes = processes or Processes()
    wanted = settings.gradient_checkpointing
    if wanted == "auto":  # one decides: sharded layers are gathered for all or for none
        wanted = processes.broadcast(lambda: needs_checkpointing(model, steps.micro_batch_tokens))
    if wanted:
        _recompute_layers(model)
    found = found or newest_whole(run, fingerprint)
    for message in found.passed_over:
        on_message(message)
    trainer = _ChainTrainer(model, steps, settings, processes, run, fingerprint)
    trainer.kept_steps = {best_step} if best_step is not None else set()
    if trainer.processes.main:
        trainer.keep_newest(found.step)
    with signals_finish_the_step() as flag:
        trainer.add_callback(_Pace(trainer, flag, on_epoch_end, on_step))
        if found.folder is not None:
            on_message(f"resuming from {found.folder.name}")
        trainer.train(resume_from_checkpoint=str(found.folder) if found.folder else None)
        step = trainer.state.global_step
        if flag.received is not None and step < len(steps):
            raise TrainingInterrupted(flag.received, step)
    return trainer.progress, trainer.tensors_to_save()


def _recompute_layers(model: PeftModel) -> None:
    inner = cast(Any, plain_model(model))
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    inner.enable_input_require_grads()
