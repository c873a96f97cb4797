"""The state of the random generators that a training process draws from: Python's, NumPy's, PyTorch's, its device's.

Only the process's own device. `torch.cuda.get_rng_state_all` would create a context of several hundred megabytes on
every visible GPU, from every process.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals


def torch_state(device: torch.device) -> dict[str, Tensor]:
    """The generators that dropout draws from, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_torch_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def file_name(rank: int, world: int) -> str:
    """As `transformers.Trainer` names it."""
    return f"rng_state_{rank}.pth" if world > 1 else "rng_state.pth"


def save_random_state(path: Path, device: torch.device) -> None:
    torch.save({"python": random.getstate(), "numpy": np.random.get_state(), **torch_state(device)}, path)


def load_random_state(path: Path, device: torch.device) -> None:
    """Restores what `save_random_state` wrote, or Trainer for lorachain up to 0.2: there the state of every GPU that a
    process of several saw."""
    with safe_globals():  # type: ignore[no-untyped-call]
        states: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    if isinstance(of_all := states.get("cuda"), list):
        states["cuda"] = of_all[device.index or 0]
    restore_torch_state(states, device)
