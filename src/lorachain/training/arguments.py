"""`TrainingArguments` of a process that trains on one device, whichever others it sees.

Without a launcher, Trainer takes the first GPU whatever the model is on, and wraps the model in `nn.DataParallel` where
several are visible.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

_DEVICE_OF_ACCELERATE = "ACCELERATE_TORCH_DEVICE"


class OneDeviceArguments(TrainingArguments):
    """`options` are those of TrainingArguments; `device` is where the model is."""

    def __init__(self, device: torch.device, **options: Any) -> None:
        self.own_device = _indexed(device)
        self.only_own_device = False
        super().__init__(use_cpu=device.type == "cpu", **options)

    @cached_property
    def _setup_devices(self) -> torch.device:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the launcher decided, and accelerate has set the device
            return super()._setup_devices
        AcceleratorState._reset_state(reset_partial_state=True)
        with _accelerate_uses(self.own_device):
            self.distributed_state = PartialState(cpu=self.own_device.type == "cpu")
        self._n_gpu = 0 if self.own_device.type == "cpu" else 1
        return self.own_device

    @property
    def parallel_mode(self) -> ParallelMode:
        return ParallelMode.NOT_DISTRIBUTED if self.only_own_device else cast(ParallelMode, super().parallel_mode)

    @contextmanager
    def states_of_own_device(self) -> Iterator[None]:
        """Within it, Trainer saves and restores the random state of the current device.

        In one of several processes it would call `torch.cuda.get_rng_state_all`, which creates a context of several
        hundred megabytes on every visible GPU.
        """
        self.only_own_device = True
        try:
            yield
        finally:
            self.only_own_device = False


def _indexed(device: torch.device) -> torch.device:
    """`cuda` with its number: a tensor's device has one, and Trainer compares the two."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


@contextmanager
def _accelerate_uses(device: torch.device) -> Iterator[None]:
    """Within it, a new `PartialState` has this device."""
    before = os.environ.get(_DEVICE_OF_ACCELERATE)
    os.environ[_DEVICE_OF_ACCELERATE] = str(device)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_DEVICE_OF_ACCELERATE]
        else:
            os.environ[_DEVICE_OF_ACCELERATE] = before
