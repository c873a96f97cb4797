"""An adapter's effect scaled after training: W + c * scale*B@A with c from 0 (the base) to 1 (as trained).

c is multiplied into B, one rounding of each element to float32. So every reader of the adapter (PEFT, the merge and its
verification, compose, exports, training that continues it) computes with the scaled adapter without knowing of c; a
scaled `lora_alpha` would not reach loaders that read one alpha for all layers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

from lorachain.weights.intruders import layer_number
from lorachain.weights.lora_layers import ADAPTER_WEIGHTS

Variant = Literal["uniform", "lines"]
"""`uniform`: every layer by c. `lines`: from c in the first decoder layer linearly to 1 in the last (LiNeS: Wang et al.
2024, arXiv 2410.17146), as early layers hold more of what is general."""


def adapter_tensors_of(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file, by their stored names."""
    return load_file(folder / ADAPTER_WEIGHTS)


def scaled_tensors(tensors: Mapping[str, Tensor], scale: float, variant: Variant) -> dict[str, Tensor]:
    """The adapter's tensors with every B multiplied by its layer's factor."""
    last = max((layer_number(name) for name in tensors), default=0)
    return {
        name: tensor * layer_scale(layer_number(name), last, scale, variant) if ".lora_B." in name else tensor
        for name, tensor in tensors.items()
    }


def layer_scale(layer: int, last: int, scale: float, variant: Variant) -> float:
    """The factor of decoder layer `layer` (from 0) of `last` + 1."""
    if variant == "uniform" or not last:
        return scale
    return scale + (1 - scale) * layer / last


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the adapter's file in a directory."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
