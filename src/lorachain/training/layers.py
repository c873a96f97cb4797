"""Which implementation of the decoder layers a run trains with."""

import torch
from torch import nn

from lorachain.artifacts import LayerKind
from lorachain.config import Kernels, Quantization
from lorachain.errors import ConfigError
from lorachain.kernels.operators import kernels_available
from lorachain.training.fused_layers import can_be_fused, compile_fused_layers, use_fused_layers
from lorachain.training.recompute_layers import use_recompute_layers


def check_compile(compile: bool, device: torch.device, quantization: Quantization) -> None:
    """Raises ConfigError where layers should be compiled and cannot be."""
    if not compile:
        return
    if device.type != "cuda":
        raise ConfigError(
            f"training.compile is true and the device is {device.type}; layers are compiled for CUDA only. Set "
            "training.compile to false, or choose a CUDA device"
        )
    if not kernels_available(device):
        raise ConfigError(
            "training.compile is true and triton is not installed; install it with `pip install 'lorachain[gpu]'`, or "
            "set training.compile to false"
        )
    if quantization != "none":
        raise ConfigError(
            f"training.compile is true and quantization is {quantization!r}; only layers that are not quantized are "
            "compiled. Set training.compile to false, or quantization to 'none'"
        )


def choose_layers(decoder: nn.Module, device: torch.device, kernels: Kernels, *, compile: bool) -> LayerKind:
    """`fused` where the kernels can run and compute what the layers do, `compiled` where that is set, else
    `recomputed`.

    Raises:
        ConfigError: the layers should be compiled and are not those of Gemma 3.
    """
    fusible = can_be_fused(decoder)
    if compile:
        if not fusible:
            raise ConfigError(
                "training.compile is true, but the model's layers are not Gemma 3's with frozen norms and GELU (tanh); "
                "set it to false"
            )
        return "compiled"
    return "fused" if kernels == "auto" and kernels_available(device) and fusible else "recomputed"


def use_layers(decoder: nn.Module, kind: LayerKind) -> None:
    """Switches the decoder to these layers for training; without gradients nothing changes."""
    if kind == "recomputed":
        use_recompute_layers(decoder)
        return
    use_fused_layers(decoder)
    if kind == "compiled":
        compile_fused_layers(decoder)
