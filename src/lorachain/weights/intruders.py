"""Intruder dimensions: directions of a tuned weight that its base does not have.

Shuttleworth et al. 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv 2410.21228): among the
TOP_K left singular vectors of W + scale*B@A with the largest singular values, those whose cosine with every left
singular vector of W is below EPSILON. PEFT's `reduce_intruder_dimension` has the same definition but only prints what
it finds, on a model in memory; this reads the files.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from lorachain.weights.checks import check_weights
from lorachain.weights.lora_file import open_lora
from lorachain.weights.safetensors_io import read_tensor

VERSION = "1"
TOP_K = 10
EPSILON = 0.5
_LAYER = re.compile(r"\.layers\.(\d+)\.")


def intruder_dimensions(base: Path, adapter: Path, *, layers: int) -> dict[str, int]:
    """The number of intruder dimensions of each adapted linear layer, by its name.

    Args:
        layers: decoder layers that are read, evenly spread from the first to the last; 0: all of them.

    Raises:
        ModelError, AdapterError: as `check_weights` and `open_lora`.
    """
    names = check_weights(base)
    lora = open_lora(adapter, names)
    chosen = _spread(sorted({layer_number(module) for module in lora.targets}), layers)
    counts = {}
    for module, target in sorted(lora.targets.items()):
        if layer_number(module) in chosen:
            weight = read_tensor(names.shards.tensors[names.stored[f"{module}.weight"]]).double()
            a, b = target.factors()
            counts[module] = count_intruders(weight, weight + target.scale * (b.double() @ a.double()))
    return counts


def count_intruders(weight: Tensor, tuned: Tensor) -> int:
    """Intruder dimensions of `tuned` (out, in) among its TOP_K left singular vectors, against `weight` (out, in)."""
    before, after = left_singular_vectors(weight), left_singular_vectors(tuned)[:, :TOP_K]
    cosines = (after.T @ before).abs().amax(dim=1)
    return int((cosines < EPSILON).sum())


def left_singular_vectors(weight: Tensor) -> Tensor:
    """(out, min(out, in)) in float64, the largest singular value first.

    From the eigenvectors of the smaller of W W^T and W^T W, several times faster than an SVD of W.
    """
    w = weight.double()
    if w.shape[0] <= w.shape[1]:
        left: Tensor = torch.linalg.eigh(w @ w.T).eigenvectors
        return left.flip(1)
    values, right = torch.linalg.eigh(w.T @ w)
    singular: Tensor = values.flip(0).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    result: Tensor = (w @ right.flip(1)) / singular
    return result


def layer_number(module: str) -> int:
    """The decoder layer of a module or tensor, from 0; 0 for one outside of the layers."""
    match = _LAYER.search(f".{module}")
    return int(match[1]) if match else 0


def _spread(numbers: list[int], count: int) -> set[int]:
    if not count or count >= len(numbers):
        return set(numbers)
    if count == 1:
        return {numbers[len(numbers) // 2]}
    return {numbers[round(i * (len(numbers) - 1) / (count - 1))] for i in range(count)}
