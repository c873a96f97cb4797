"""Which implementation of the decoder layers a run trains with."""

from collections.abc import Callable

import torch
from torch import nn

from lorachain.artifacts import LayerKind
from lorachain.config import Kernels, Quantization
from lorachain.errors import ConfigError
from lorachain.kernels.operators import kernels_problem
from lorachain.training.fused_layers import can_be_fused, compile_fused_layers, use_fused_layers
from lorachain.training.recompute_layers import use_recompute_layers


def check_compile(compile: bool, device: torch.device, quantization: Quantization) -> None:
    """Raises ConfigError where layers are to be compiled and cannot be."""
    if not compile:
        return
    if device.type != "cuda":
        raise ConfigError(
            f"training.compile is true and the device is {device.type}; layers are compiled for CUDA only. Set "
            "training.compile to false, or choose a CUDA device"
        )
    if problem := kernels_problem(device):
        raise ConfigError(f"training.compile is true, but {problem}. Fix that, or set training.compile to false")
    if quantization != "none":
        raise ConfigError(
            f"training.compile is true and quantization is {quantization!r}; only layers that are not quantized are "
            "compiled. Set training.compile to false, or quantization to 'none'"
        )


def choose_layers(
    decoder: nn.Module, device: torch.device, kernels: Kernels, *, compile: bool, on_message: Callable[[str], None]
) -> LayerKind:
    """`compiled` where that is set, `fused` on CUDA where the kernels can run and compute what the layers do, else
    `recomputed`.

    Raises:
        ConfigError: the layers are to be compiled and are not those of Gemma 3.
    """
    fusible = can_be_fused(decoder)
    if compile:
        if not fusible:
            raise ConfigError(
                "training.compile is true, but the model's layers are not Gemma 3's with frozen norms and GELU (tanh); "
                "set it to false"
            )
        return "compiled"
    if kernels == "off" or device.type != "cuda" or not fusible:
        return "recomputed"
    if problem := kernels_problem(device):
        on_message(f"training without fused kernels, which takes more time: {problem}")
        return "recomputed"
    return "fused"


def use_layers(decoder: nn.Module, kind: LayerKind) -> None:
    """Switches the decoder to these layers for training; without gradients nothing changes."""
    if kind == "recomputed":
        use_recompute_layers(decoder)
        return
    use_fused_layers(decoder)
    if kind == "compiled":
        compile_fused_layers(decoder)
