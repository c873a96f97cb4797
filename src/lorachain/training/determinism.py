"""Training whose every sum is taken in the same order: the same bits for the same machine, versions and settings.

On a CPU that holds anyway. On CUDA some kernels add with atomic operations, in whatever order threads arrive.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WORKSPACE, _REPRODUCIBLE = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
"""With several streams, cuBLAS otherwise takes whichever workspace is free, and its algorithm with it
(https://docs.nvidia.com/cuda/cublas/#results-reproducibility)."""
_FLASH_ATTENTION = "FLASH_ATTENTION_DETERMINISTIC"
"""Read by transformers for the package flash-attn; PyTorch's own attention follows its global switch."""


def prepare_determinism() -> None:
    """Sets what libraries read when they first use the device; call it before that."""
    if os.environ.get(_WORKSPACE) not in _REPRODUCIBLE:
        os.environ[_WORKSPACE] = _REPRODUCIBLE[0]
    os.environ[_FLASH_ATTENTION] = "1"


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Within it, PyTorch uses deterministic kernels, attention's backward pass included.

    Where an operation has none it raises a RuntimeError. Afterwards everything is as before.
    """
    if not enabled:
        yield
        return
    prepare_determinism()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    tensors: Any = torch.utils.deterministic
    choice, fill = (cudnn.deterministic, cudnn.benchmark), tensors.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    # Filling every new tensor costs a kernel each, and nothing here reads memory that it has not written.
    tensors.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = choice
        tensors.fill_uninitialized_memory = fill
