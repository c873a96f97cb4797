"""Trains an adapter: resumes, takes as much memory as there is, and calls back at the end of each epoch."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from lorachain.processes import Processes
from lorachain.training.activations import needs_recomputation
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.chain_trainer import ChainTrainer
from lorachain.training.checkpoints import CheckpointSearch, newest_complete
from lorachain.training.determinism import deterministic_algorithms
from lorachain.training.interrupts import TrainingInterrupted, signals_finish_the_step
from lorachain.training.layers import choose_layers
from lorachain.training.memory_use import MemoryUse, out_of_memory_as_error
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.step_callback import EpochEnd, StepCallback
from lorachain.training.trackers import Tracking, tracker_callbacks, tracker_environment
from lorachain.weights.attention_choice import takes_segments
from lorachain.weights.load import plain_model, text_decoder
from lorachain.weights.lora import PeftModel, check_trainable


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
    trainer = ChainTrainer(model, schedule, settings, processes, run, fingerprint, tracking, layers, memory, on_message)
    schedule.packed = takes_segments(decoder)
    trainer.kept_steps = {best_step} if best_step is not None else set()
    if trainer.processes.main:
        trainer.keep_newest(checkpoint.step)
        trainer.loss_log.drop_after(checkpoint.step)
    with (
        tracker_environment(tracking),
        deterministic_algorithms(settings.deterministic),
        out_of_memory_as_error(device),
        signals_finish_the_step() as flag,
    ):
        for callback in tracker_callbacks(tracking, checkpoint.step) if tracking and processes.main else ():
            trainer.add_callback(callback)
        trainer.add_callback(StepCallback(trainer, flag, on_epoch_end, on_step))
        if checkpoint.directory is not None:
            on_message(f"resuming from {checkpoint.directory.name}")
        trainer.train(resume_from_checkpoint=str(checkpoint.directory) if checkpoint.directory else None)
        step = trainer.state.global_step
        if flag.received is not None and step < len(schedule):
            raise TrainingInterrupted(flag.received, step)
    return trainer.progress, trainer.tensors_to_save()
