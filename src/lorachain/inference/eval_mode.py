"""Evaluation mode, restored afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorachain.weights.load import is_sharded


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had before.

    A model sharded by FSDP2 runs under `no_grad` rather than `inference_mode`: FSDP2 keeps the buffers that it gathers
    layers into, and autograd cannot save inference tensors in the training that follows.
    """
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad() if is_sharded(model) else torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True
