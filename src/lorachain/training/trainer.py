"""`transformers.Trainer` with our loss, batch schedule and checkpoints.

What differs: the micro-batches of a step share one normalizer, a loss or gradient that is not finite stops the run,
checkpoints are complete or absent and hold the adapter's float32 masters, and the end of each epoch calls back to the
stage (which validates).
"""

import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback

from lorachain.artifacts import LayerKind, LossRow, TrainingProgress
from lorachain.errors import DeviceError
from lorachain.memory import release
from lorachain.training.activations import needs_recomputation
from lorachain.training.arguments import OneDeviceArguments
from lorachain.training.batch_schedule import BatchSchedule, StepInputs
from lorachain.training.checkpoints import (
    PROGRESS,
    TRAINER_STATE,
    CheckpointSearch,
    keep_only,
    newest_complete,
    save_checkpoint,
    unusable_as_error,
)
from lorachain.training.determinism import deterministic_algorithms
from lorachain.training.distributed import Processes
from lorachain.training.finite import check_finite, non_finite
from lorachain.training.interrupts import SignalFlag, TrainingInterrupted, signals_finish_the_step
from lorachain.training.layers import choose_layers
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.loss_log import LossLog
from lorachain.training.memory_use import MemoryUse, change_message, nothing_left, out_of_memory_as_error
from lorachain.training.optimizer import MasterWeightAdamW, master_tensors
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.random_state import restore_torch_state, torch_state
from lorachain.training.step import TooLarge, run_micro_batches
from lorachain.training.trackers import PROJECT, Tracking, logged, tracker_callbacks, tracker_environment
from lorachain.weights.attention_choice import takes_segments
from lorachain.weights.load import plain_model, text_decoder
from lorachain.weights.lora import (
    ADAPTER_WEIGHTS,
    PeftModel,
    adapter_tensors,
    check_trainable,
    save_adapter,
    set_adapter_tensors,
)
from lorachain.workspace import LOSS_LOG, checkpoint_steps

EpochEnd = Callable[[int, int], bool]
"""(epoch from 1, step) -> whether this epoch's adapter is the best so far, whose checkpoint is kept."""


class _ChainTrainer(Trainer):
    """See the module's docstring. One instance trains one stage once."""

    def __init__(
        self,
        model: PeftModel,
        schedule: BatchSchedule,
        settings: TrainingSettings,
        processes: Processes,
        run: Path,
        fingerprint: str,
        tracking: Tracking | None,
        layers: LayerKind,
        memory: MemoryUse,
        on_message: Callable[[str], None],
    ) -> None:
        self.peft_model = model
        self.schedule = schedule
        self.settings = settings
        self.processes = processes
        self.run = run
        self.fingerprint = fingerprint
        self.memory = memory
        self.on_message = on_message
        self.progress = Progress(layers=layers)
        self.loss_log = LossLog(run / LOSS_LOG)
        self.measured = (0.0, 0.0)
        """Learning rate and gradient norm of the step in progress."""
        self.pending = (0.0, 0, 0, torch.zeros(()))
        """Of the step in progress: when it started, its tokens, those that are supervised, its loss on the device."""
        self.kept_steps: set[int] = set()
        arguments = OneDeviceArguments(
            plain_model(model).device,
            output_dir=str(run),
            max_steps=len(schedule),
            per_device_train_batch_size=1,  # one item of BatchSchedule is one optimizer step
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=round(settings.warmup_ratio * len(schedule)),
            max_grad_norm=settings.max_grad_norm,
            seed=settings.seed,
            logging_nan_inf_filter=False,  # each loss is checked; this would wait for the device once more
            save_strategy="no",  # _StepCallback requests checkpoints
            logging_strategy="no",
            report_to=[],  # `train` adds the trackers
            run_name=tracking.run if tracking else None,
            project=PROJECT,
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
        )
        self.states_of_own_device = arguments.states_of_own_device
        module = SupervisedLanguageModel(model, layers, settings.preference)
        super().__init__(model=module, args=arguments, train_dataset=schedule)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[StepInputs]:
        # Not prepared by accelerate: `BatchSchedule` already gives each process its share of a step.
        return DataLoader(self.schedule, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

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
        """Forward and backward pass of all micro-batches of a step, and their summed loss.

        Losses are divided by the step's supervised tokens over all processes, those of pairs by the step's pairs. A
        step that does not fit in memory is repeated with less (`MemoryUse`).

        Raises:
            DeviceError: it does not fit, and nothing is left to change.
        """
        started = time.perf_counter()
        model.train()
        world = self.accelerator.num_processes
        # Averaged over processes, but the loss is normalized over all of them: undo the average.
        divisors = {
            name: torch.full((), float(inputs[name]) / world, device=self.args.device)
            for name in ("normalizer", "pairs")
        }
        random_state = torch_state(self.args.device)
        self.accelerator.sync_gradients = False  # where a model is sharded, Trainer would average in the backward pass
        result = self._run(model, inputs["micro_batches"], divisors)
        while too_large := [one for one in self.processes.all_gather(_failure(result)) if one is not None]:
            self._reduce_memory(too_large)
            restore_torch_state(random_state, self.args.device)
            result = self._run(model, self.schedule[self.state.global_step]["micro_batches"], divisors)
        self.accelerator.sync_gradients = True
        loss = result if isinstance(result, Tensor) else torch.zeros((), device=self.args.device)
        if world > 1:
            self.processes.average([p.grad for p in self.peft_model.parameters() if p.grad is not None])
            loss = self.accelerator.reduce(loss / world, reduction="sum")
        self.pending = (started, inputs["tokens"], inputs["supervised"], loss)
        return loss

    def _run(self, model: nn.Module, batches: list[dict[str, Any]], divisors: dict[str, Tensor]) -> Tensor | TooLarge:
        return run_micro_batches(
            model,
            batches,
            divisors,
            backward=self.accelerator.backward,
            without_exchange=partial(self.accelerator.no_sync, model),
            catch=not self.processes.sharded,  # the others would wait in the middle of a layer
        )

    def _reduce_memory(self, too_large: list[TooLarge]) -> None:
        """Drops the step's gradients, and changes one thing so that it takes less memory.

        Raises:
            DeviceError: nothing is left to change.
        """
        self.peft_model.zero_grad(set_to_none=True)
        release()
        was_recomputing = self.memory.recomputing
        change = self.memory.reduce(self.state.global_step + 1, too_large)
        if change is None:
            raise DeviceError(nothing_left(f"on {self.args.device} in {self._where()}", too_large, self.memory))
        self.progress.memory_changes.append(change)
        if self.processes.main:
            self.on_message(change_message(change, too_large, was_recomputing=was_recomputing))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        """The norm that Trainer computes before each optimizer step. Here the host waits for the device, once a step.

        Raises:
            NonFiniteError: the loss or the norm is NaN or infinite.
        """
        norm: Tensor | float = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        started, tokens, supervised, loss = self.pending
        both = torch.stack([loss, torch.as_tensor(norm, device=loss.device, dtype=loss.dtype)])
        value, size = map(float, both.tolist())
        of_what = f" ({tokens:,} tokens, {supervised:,} supervised)"
        check_finite(f"loss of {self._where()}{of_what}", value, self.peft_model, self.settings)
        self.progress.losses.append(value)
        self.progress.tokens += tokens
        self.progress.supervised_tokens += supervised
        self.progress.seconds += time.perf_counter() - started
        check_finite(f"gradient norm of {self._where()}", size, self.peft_model, self.settings)
        self.measured = (self._get_learning_rate(), size)
        return size

    def step_row(self) -> LossRow:
        """What the step that has just ended measured."""
        step = self.state.global_step
        learning_rate, grad_norm = self.measured
        return LossRow(
            step=step,
            epoch=step / self.schedule.steps_per_epoch,
            loss=self.progress.losses[-1],
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            num_tokens=self.progress.tokens,
        )

    def _where(self) -> str:
        return f"step {self.state.global_step + 1} of {len(self.schedule)}"

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # transformers' estimate counts the embeddings as computed and ignores LoRA

    def tensors_to_save(self) -> dict[str, Tensor]:
        """The adapter's float32 masters under PEFT's names; before the first step, the adapter itself."""
        stored = adapter_tensors(self.peft_model)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if not isinstance(optimizer, MasterWeightAdamW):
            return stored
        # PEFT stores `….lora_A.weight` for the parameter `….lora_A.default.weight`.
        names = [n.replace(".default.", ".") for n, p in self.peft_model.named_parameters() if p.requires_grad]
        masters = master_tensors(optimizer, names)
        if masters.keys() != stored.keys():
            raise RuntimeError("the optimizer's masters are not the adapter's tensors")
        if not optimizer.is_finite():
            where = f"after step {self.state.global_step}"
            raise non_finite(
                f"the adapter or the optimizer state is NaN or infinite {where}", self.peft_model, self.settings
            )
        return masters

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.progress.step = self.state.global_step
        tensors = self.tensors_to_save()  # in every process: where they are not finite, all of them stop
        random_states = self.processes.all_gather(self._random_state())
        if self.processes.main:
            self._write_checkpoint(tensors, dict(random_states))
        self.processes.wait()

    def _random_state(self) -> tuple[str, bytes]:
        """Name and content of the file with the state of this process's random generators."""
        with TemporaryDirectory() as scratch, self.states_of_own_device():
            self._save_rng_state(scratch)
            (path,) = Path(scratch).iterdir()
            return path.name, path.read_bytes()

    def _write_checkpoint(self, tensors: dict[str, Tensor], random_states: dict[str, bytes]) -> None:
        def write(directory: Path) -> None:
            save_adapter(self.peft_model, directory, tensors)
            self._save_optimizer_and_scheduler(str(directory))
            for name, content in random_states.items():
                (directory / name).write_bytes(content)
            self.state.save_to_json(str(directory / TRAINER_STATE))
            stored = {f.name: getattr(self.progress, f.name) for f in fields(self.progress) if f.name != "layers"}
            TrainingProgress(**stored).write(directory / PROGRESS)

        self.loss_log.sync()
        save_checkpoint(self.run, self.state.global_step, self.fingerprint, write)
        self.keep_newest(self.state.global_step)

    def keep_newest(self, step: int) -> None:
        """Removes old checkpoints, and those after `step`, which is where the run is: they are incomplete."""
        newest = [s for s in checkpoint_steps(self.run) if s <= step][: self.settings.keep_checkpoints]
        keep_only(self.run, {step, *newest, *self.kept_steps})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the adapter and the progress; Trainer then loads the optimizer, whose masters replace the factors."""
        directory = Path(resume_from_checkpoint)
        with unusable_as_error(directory):
            tensors, expected = load_file(directory / ADAPTER_WEIGHTS), adapter_tensors(self.peft_model)
            if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in expected.items()}:
                raise ValueError(f"{ADAPTER_WEIGHTS} does not have the tensors of this adapter")
            set_adapter_tensors(self.peft_model, tensors)
            # Trainer would continue without an optimizer state, as if the run began here.
            for name in (TRAINER_STATE, OPTIMIZER_NAME, SCHEDULER_NAME):
                if not (directory / name).is_file():
                    raise ValueError(f"{name} is missing")
        stored = TrainingProgress.read(directory / PROGRESS)
        self.progress = Progress(
            step=stored.step,
            tokens=stored.tokens,
            supervised_tokens=stored.supervised_tokens,
            seconds=stored.seconds,
            losses=list(stored.losses),
            layers=self.progress.layers,
            memory_changes=list(stored.memory_changes),
        )
        if stored.memory_changes:
            self.memory.restore(stored.memory_changes[-1])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with unusable_as_error(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with unusable_as_error(checkpoint), self.states_of_own_device():
            super()._load_rng_state(checkpoint)


def _failure(result: Tensor | TooLarge) -> TooLarge | None:
    return result if isinstance(result, TooLarge) else None


class _StepCallback(TrainerCallback):
    """After each step: progress bar, end of the epoch, checkpoint, interruption."""

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
        steps_per_epoch = self.trainer.schedule.steps_per_epoch
        settings = self.trainer.settings
        self.trainer.progress.step = state.global_step
        if self.trainer.processes.main:
            row = self.trainer.step_row()
            self.trainer.loss_log.append(row)
            # Not `Trainer.log`, which also keeps everything in the state that each checkpoint stores.
            self.trainer.callback_handler.on_log(args, state, control, logged(row))
        self.call_step(self.trainer.progress)
        if state.global_step % steps_per_epoch == 0 or state.global_step == len(self.trainer.schedule):
            epoch = -(-state.global_step // steps_per_epoch)
            if self.call_epoch_end(epoch, state.global_step):
                self.trainer.kept_steps = {state.global_step}
            control.should_save = True
        if settings.save_every_steps and state.global_step % settings.save_every_steps == 0:
            control.should_save = True
        # All processes do the same: the main process's clock decides, and a signal to any of them stops all.
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
    schedule: BatchSchedule,
    settings: TrainingSettings,
    *,
    run: Path,
    fingerprint: str,
    on_epoch_end: EpochEnd,
    on_step: Callable[[Progress], None],
    on_message: Callable[[str], None],
    checkpoint: CheckpointSearch | None = None,
    best_step: int | None = None,
    processes: Processes | None = None,
    tracking: Tracking | None = None,
) -> tuple[Progress, dict[str, Tensor]]:
    """Trains the adapter; resumes from the newest complete checkpoint of the same fingerprint in `run`.

    Args:
        schedule: this process's share of each step.
        run: the directory of checkpoints.
        fingerprint: identifies the settings and data of the run; written to each checkpoint's manifest.
        on_epoch_end: called after the last step of each epoch, before its checkpoint is saved.
        checkpoint: the checkpoint to resume from, where the caller has searched already.
        best_step: the step of the best epoch before an interruption, whose checkpoint is kept.
        processes: the processes that share each step.
        tracking: where the main process logs each step besides `losses.csv`.

    Returns:
        The progress, and the adapter's tensors (float32, PEFT's names).

    Raises:
        TrainingInterrupted: on SIGTERM or Ctrl+C, after saving.
        NonFiniteError: a loss, a gradient or a trained weight is NaN or infinite; nothing of that step is saved.
        WorkspaceError: the disk is full.
        AdapterError: something other than the LoRA would be trained.
        DeviceError: the device has too little memory.
    """
    check_trainable(model)
    processes = processes or Processes()
    recompute = settings.gradient_checkpointing
    if recompute == "auto":  # the same in all processes: sharded layers are gathered for all of them or for none
        recompute = processes.broadcast(lambda: needs_recomputation(model, schedule.micro_batch_tokens))
    memory = MemoryUse(model, schedule, may_recompute=settings.gradient_checkpointing == "auto")
    if recompute:
        memory.recompute()
    checkpoint = checkpoint or newest_complete(run, fingerprint)
    for message in checkpoint.skipped:
        on_message(message)
    decoder, device = text_decoder(model), plain_model(model).device
    layers = choose_layers(decoder, device, settings.kernels, compile=settings.compile, on_message=on_message)
    trainer = _ChainTrainer(
        model, schedule, settings, processes, run, fingerprint, tracking, layers, memory, on_message
    )
    schedule.packed = takes_segments(decoder)
    trainer.kept_steps = {best_step} if best_step is not None else set()
    if trainer.processes.main:
        trainer.keep_newest(checkpoint.step)
        trainer.loss_log.drop_after(checkpoint.step)
    with (
        tracker_environment(tracking),
        deterministic_algorithms(settings.deterministic),
        out_of_memory_as_error(plain_model(model).device),
        signals_finish_the_step() as flag,
    ):
        for callback in tracker_callbacks(tracking, checkpoint.step) if tracking and processes.main else ():
            trainer.add_callback(callback)
        trainer.add_callback(_StepCallback(trainer, flag, on_epoch_end, on_step))
        if checkpoint.directory is not None:
            on_message(f"resuming from {checkpoint.directory.name}")
        trainer.train(resume_from_checkpoint=str(checkpoint.directory) if checkpoint.directory else None)
        step = trainer.state.global_step
        if flag.received is not None and step < len(schedule):
            raise TrainingInterrupted(flag.received, step)
    return trainer.progress, trainer.tensors_to_save()
