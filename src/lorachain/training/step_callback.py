"""What happens after each optimizer step."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorachain.training.chain_trainer import ChainTrainer
from lorachain.training.interrupts import SignalFlag
from lorachain.training.progress import Progress
from lorachain.training.trackers import logged

EpochEnd = Callable[[int, int], bool]
"""(epoch from 1, step) -> whether this epoch's adapter is the best so far, whose checkpoint is kept."""


class StepCallback(TrainerCallback):
    """After each step: progress bar, end of the epoch, checkpoint, interruption."""

    def __init__(
        self,
        trainer: ChainTrainer,
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
