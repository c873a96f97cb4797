"""Peak memory of a piece of work, and releasing memory between two models."""

import gc
import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5): resets the peak resident set size to what is resident now


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
