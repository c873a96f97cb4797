"""A LoRA on disk, matched with the model that it is for: every tensor is accounted for before one is used."""

import math
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig
from torch import Tensor, nn

from lorachain.errors import AdapterError
from lorachain.provenance import sha256_file, sha256_json
from lorachain.weights.lora_config import ADAPTER_CONFIG, read_plain_lora_config
from lorachain.weights.lora_layers import (
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    Factor,
    LayerSettings,
    adapted_layers,
    check_shapes,
    find_factors,
    open_adapter_weights,
)
from lorachain.weights.parameter_names import ParameterNames
from lorachain.weights.safetensors_io import TORCH_DTYPES, StoredTensor, is_finite, read_tensor, tensor_sha256


@dataclass(frozen=True, slots=True)
class LoraTarget:
    """One adapted linear layer: y = (W + scale*B@A) x."""

    module: str
    """The layer's name in memory."""
    rank: int
    alpha: float
    scale: float
    """alpha/r, or alpha/sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
    a: StoredTensor
    b: StoredTensor

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) as float32."""
        return read_tensor(self.a).float(), read_tensor(self.b).float()


@dataclass(frozen=True, slots=True)
class LoraFile:
    """An adapter directory, opened and checked."""

    folder: Path
    config: LoraConfig
    targets: dict[str, LoraTarget]
    """By the layer's name in memory."""
    tensor_count: int
    """Tensors in the file, each accounted for."""


def adapter_sha256(folder: Path) -> str:
    """The identity of an adapter: SHA-256 over the hashes of its configuration and its weights.

    Raises:
        AdapterError: one of them cannot be read.
    """
    try:
        return sha256_json({name: sha256_file(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)})
    except OSError as error:
        raise AdapterError(f"{folder} does not contain a complete adapter: {error}; create it again") from error


def open_lora(folder: Path, names: ParameterNames) -> LoraFile:
    """A LoRA whose every tensor belongs to a linear layer of the model, and every target has its A and B.

    A layer whose B is zero was not trained (as the vision tower's in training on text) and stays unchanged.

    Raises:
        AdapterError: it is not plain LoRA, is for another model, lacks tensors or has unknown ones, has values that are
            not finite, or every B is zero.
    """
    config = read_plain_lora_config(folder)
    shard = open_adapter_weights(folder)
    factors, others = find_factors(folder, shard, names.modules)
    for factor in factors:
        _check_mergeable(folder, factor, names)
    for tensor in others:
        if not _is_copy_of_base(tensor, names):
            raise AdapterError(
                f"{folder}: tensor {tensor.name} is neither a LoRA factor of a linear layer (lora_A, lora_B) nor a "
                f"copy of the base's own weight; {_NOT_MERGED}"
            )
    layers = adapted_layers(folder, config, factors, names.modules)
    check_shapes(folder, factors, layers, names.modules)
    by_side = {(factor.module, factor.side): factor.tensor for factor in factors}
    targets = {
        module: _target(module, layer, config.use_rslora, by_side[module, "A"], by_side[module, "B"])
        for module, layer in layers.items()
    }
    _check_values(folder, targets)
    return LoraFile(folder, config, targets, len(shard.tensors))


_NOT_MERGED = "embeddings, whole modules and biases are not merged: Gemma 3 ties embeddings and head"


def _is_copy_of_base(tensor: StoredTensor, names: ParameterNames) -> bool:
    """Whether it is the base's own weight, byte for byte: PEFT saves head and embeddings beside a LoRA on them."""
    name = tensor.name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    key = names.stored.get(names.modules.parameter_name(name) or "")
    if key is None:
        return False
    base = names.shards.tensors[key]
    same_kind = (tensor.dtype, tensor.shape) == (base.dtype, base.shape)
    return same_kind and tensor_sha256(tensor) == tensor_sha256(base)


def _check_mergeable(folder: Path, factor: Factor, names: ParameterNames) -> None:
    """Raises AdapterError unless a factor's layer is a linear layer with a weight of its own."""
    tensor, module = factor.tensor, names.modules.module(factor.module)
    if isinstance(module, nn.Embedding):
        raise AdapterError(f"{folder}: tensor {tensor.name} adapts the embeddings; {_NOT_MERGED}")
    if f"{factor.module}.weight" in names.tied:
        raise AdapterError(
            f"{folder}: tensor {tensor.name} adapts {factor.module}, whose weight head and embeddings share; merging "
            "it would change both. Train without it"
        )
    if not isinstance(module, nn.Linear):
        raise AdapterError(
            f"{folder}: tensor {tensor.name} adapts a {type(module).__name__}; lorachain merges into linear layers only"
        )
    if tensor.dtype not in TORCH_DTYPES:
        raise AdapterError(f"{folder}: tensor {tensor.name} is {tensor.dtype}; allowed: {', '.join(TORCH_DTYPES)}")


def _target(module: str, layer: LayerSettings, use_rslora: bool, a: StoredTensor, b: StoredTensor) -> LoraTarget:
    scale = layer.alpha / math.sqrt(layer.rank) if use_rslora else layer.alpha / layer.rank
    return LoraTarget(module, layer.rank, layer.alpha, scale, a, b)


def _check_values(folder: Path, targets: dict[str, LoraTarget]) -> None:
    """Raises AdapterError where a value is not finite, or where the adapter as a whole changes nothing."""
    trained = False
    for target in targets.values():
        a, b = target.factors()
        for tensor, factor in ((target.a, a), (target.b, b)):
            if not is_finite(factor):
                raise AdapterError(
                    f"{folder}: {tensor.name} has values that are not finite (NaN or infinity); its training diverged"
                )
        trained = trained or bool(target.scale and b.any())
    if not trained:
        raise AdapterError(
            f"{folder}: B is all zeros, or the scale is zero, in all {len(targets)} layers: the adapter was not "
            "trained, and merging it would do nothing. Merge the trained adapter"
        )
