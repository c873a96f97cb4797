"""Memory of a device: what is free, the peak of a piece of work, releasing it, and telling that it ran out."""

import gc
import re
import resource
import sys
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): resets the peak resident set size to what is resident now


_OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory")
"""Of RuntimeErrors that are no `torch.OutOfMemoryError`."""


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still allocate on a device, or of the machine's memory.

    What PyTorch's allocator has reserved and holds no tensor counts as free: the driver counts it as used.
    """
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + cached)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left for a tensor or a library's workspace."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def reset_peak(device: torch.device) -> None:
    """Resets the peak. Where the system cannot (macOS), the peak is that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def peak(device: torch.device) -> int:
    """Most bytes in use since `reset_peak`: of the accelerator where there is one, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def release() -> None:
    """Frees what reference cycles still hold (a Trainer and its callbacks hold the model), so that two models are never
    in memory at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
