"""The state of the generators that dropout draws from, on the CPU and on the process's own device."""

import torch
from torch import Tensor


def torch_state(device: torch.device) -> dict[str, Tensor]:
    """By device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_torch_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
