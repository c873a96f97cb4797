"""The forward and backward passes of one optimizer step in one process, without waiting for the device in between."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorachain.memory import is_out_of_memory


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A micro-batch that does not fit in the device's memory."""

    tokens: int
    """Padding included."""
    sequences: int
    """That can be computed one by one; a right and a wrong answer of a pair count as one."""

    @classmethod
    def of(cls, batch: dict[str, Any]) -> "TooLarge":
        positions = batch["position_ids"]  # (B, T); each sequence has one position 0, and padding none
        pairs = len(batch["preference"]) if "preference" in batch else 0
        return cls(positions.numel(), int((positions == 0).sum()) - pairs)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device; on a CPU they are the same tensors.

    To a GPU they are copied from page-locked memory, so that the host queues the copy and goes on.
    """

    def moved(tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return {name: moved(value) if isinstance(value, Tensor) else value for name, value in batch.items()}


def run_micro_batches(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    divisors: dict[str, Tensor],
    *,
    backward: Callable[[Tensor], None],
    without_exchange: Callable[[], AbstractContextManager[None]],
    catch: bool,
) -> Tensor | TooLarge:
    """Adds the gradients of all micro-batches to those of the parameters; returns the summed loss on the device.

    Args:
        divisors: `normalizer` and `pairs` of the whole step, () float32 each on the device.
        backward: computes the gradients of a loss.
        without_exchange: a context in which processes exchange no gradients.
        catch: whether to return the first micro-batch that does not fit in memory. The gradients are then incomplete.
    """
    device = divisors["normalizer"].device
    loss = torch.zeros((), device=device)
    for batch in batches:
        try:
            with without_exchange():
                micro_loss = model(**to_device(batch, device), **divisors)
                backward(micro_loss)
            loss += micro_loss.detach()
        except RuntimeError as error:
            if catch and is_out_of_memory(error):
                return TooLarge.of(batch)  # the error, whose frames hold the activations, is gone once this returns
            raise
    return loss
