"""How much memory a step takes, and what is changed where a step runs out of it.

First the layers are recomputed in the backward pass, then micro-batches are halved. Neither changes what a step
computes: its gradients are those of the whole step, to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from lorachain.artifacts import MemoryChange
from lorachain.errors import DeviceError
from lorachain.memory import is_out_of_memory
from lorachain.training.activations import recompute_activations
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.step import TooLarge

_ADVICE = (
    'lower the stage\'s max_length, set quantization = "nf4", lower lora.rank, or use a device with more memory; '
    "`lorachain fit` calculates what fits. Nothing is lost: the same command resumes at the last checkpoint, unless a "
    "setting that decides the result was changed"
)


@dataclass(slots=True)
class MemoryUse:
    """What a run does to fit; both only ever change towards less memory."""

    model: nn.Module
    schedule: BatchSchedule
    may_recompute: bool
    """Whether the settings leave recomputation to lorachain."""
    recomputing: bool = False

    def recompute(self) -> None:
        if not self.recomputing:
            recompute_activations(self.model)
            self.recomputing = True

    def reduce(self, step: int, failures: Sequence[TooLarge]) -> MemoryChange | None:
        """Changes one thing so that the step takes less memory; None where nothing is left to change."""
        if self.may_recompute and not self.recomputing:
            self.recompute()
        elif any(failure.sequences == 1 for failure in failures):
            return None
        else:
            self.schedule.limit_micro_batches(max(1, min(failure.tokens for failure in failures) // 2))
        return MemoryChange(
            step=step, gradient_checkpointing=self.recomputing, micro_batch_tokens=self.schedule.micro_batch_tokens
        )

    def restore(self, change: MemoryChange) -> None:
        """What a run that is resumed had changed last."""
        if change.gradient_checkpointing:
            self.recompute()
        if change.micro_batch_tokens < self.schedule.micro_batch_tokens:
            self.schedule.limit_micro_batches(change.micro_batch_tokens)


def change_message(change: MemoryChange, failures: Sequence[TooLarge], *, was_recomputing: bool) -> str:
    """What is said of a change."""
    out = f"out of memory in step {change.step}, which is repeated: from here on"
    if change.gradient_checkpointing and not was_recomputing:
        return f"{out} the backward pass recomputes the layers (gradient_checkpointing)"
    size = max(failure.tokens for failure in failures)
    return f"{out} micro-batches have at most {change.micro_batch_tokens:,} tokens, because {size:,} do not fit"


def nothing_left(where: str, failures: Sequence[TooLarge], use: MemoryUse) -> str:
    """The message where a single sequence does not fit."""
    longest = max(failure.tokens for failure in failures if failure.sequences == 1)
    how = ", although the backward pass recomputes the layers" if use.recomputing else ""
    other = "" if use.recomputing else 'set training.gradient_checkpointing = "auto", '
    return f"out of memory {where}: one sequence of {longest:,} tokens does not fit{how}; {other}{_ADVICE}"


@contextmanager
def out_of_memory_as_error(device: torch.device) -> Iterator[None]:
    """Where training runs out of memory outside of a step's passes, or holds a sharded model, nothing can be repeated.

    Raises:
        DeviceError: it does.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"out of memory on {device} ({str(error).splitlines()[0][:120]}); lower training.micro_batch_tokens, "
            f"set training.gradient_checkpointing = true, {_ADVICE}"
        ) from error
