"""`transformers.Trainer` with our loss, batch schedule and checkpoints.

What differs: the micro-batches of a step share one normalizer, a loss or gradient that is not finite stops the run, and
checkpoints are complete or absent and hold the adapter's float32 masters.
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
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback

from lorachain.artifacts import LayerKind, LossRow, TrainingProgress
from lorachain.errors import DeviceError
from lorachain.memory import release
from lorachain.processes import Processes
from lorachain.training.arguments import OneDeviceArguments
from lorachain.training.batch_schedule import BatchSchedule, StepInputs
from lorachain.training.checkpoints import (
    PROGRESS,
    TRAINER_STATE,
    keep_only,
    save_checkpoint,
    unusable_as_error,
)
from lorachain.training.finite import check_finite, non_finite
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.loss_log import LossLog
from lorachain.training.memory_use import MemoryUse, change_message, nothing_left
from lorachain.training.optimizer import MasterWeightAdamW, master_tensors
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.random_state import restore_torch_state, torch_state
from lorachain.training.step import TooLarge, run_micro_batches
from lorachain.training.trackers import PROJECT, Tracking
from lorachain.weights.load import plain_model
from lorachain.weights.lora import (
    ADAPTER_WEIGHTS,
    PeftModel,
    adapter_tensors,
    save_adapter,
    set_adapter_tensors,
)
from lorachain.workspace import LOSS_LOG, checkpoint_steps


class ChainTrainer(Trainer):
    """One instance trains one stage once."""

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
            save_strategy="no",  # StepCallback requests checkpoints
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
