"""The state in which a model is read."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lorachain.weights.load import is_sharded


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back, so that training goes on as it was.

    The layers that FSDP2 gathers keep their buffers, which training could not save were they made in inference mode.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad() if is_sharded(model) else torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
