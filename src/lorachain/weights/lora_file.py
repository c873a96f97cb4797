"""A LoRA as it lies on disk, matched with the model that it is for: every tensor accounted for before one is used."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from lorachain.errors import AdapterError, ModelError
from lorachain.provenance import sha256_file, sha256_json
from lorachain.weights.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from lorachain.weights.parameter_names import ParameterNames
from lorachain.weights.safetensors_io import TORCH_DTYPES, StoredTensor, read_shard, read_tensor, tensor_sha256

PEFT_PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# Settings under which the adapted layer is not W + scale*B@A, or the adapter holds more than A and B.
_NOT_PLAIN = {
    "use_dora": "DoRA scales the whole weight, not only the update",
    "use_qalora": "QA-LoRA pools its input",
    "use_bdlora": "BD-LoRA factors are block-diagonal",
    "alora_invocation_tokens": "an activated LoRA works on part of the tokens only",
    "monteclora_config": "MonteCLoRA is stochastic",
    "kasa_config": "KaSA changes the base's weights",
    "arrow_config": "Arrow routes between adapters",
    "velora_config": "VeLoRA is not plain LoRA",
    "lora_bias": "its biases have no place in Gemma 3's linear layers",
    "layer_replication": "the adapter is for a model with repeated layers",
    "target_parameters": "it adapts parameters that are no linear layer's",
    "trainable_token_indices": "it holds rows of the embeddings, which are tied to the head",
    "modules_to_save": "it holds whole modules beside the LoRA",
    "megatron_config": "its layers are split across devices",
}
# Initializations that subtract their start from the base's weights: such factors fit the changed base only.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


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
    """An adapter's folder, opened and checked."""

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
        raise AdapterError(f"{folder} holds no whole adapter: {error}; make it again") from error


def open_lora(folder: Path, layout: ParameterNames) -> LoraFile:
    """A LoRA whose every tensor belongs to a linear layer of the model, and every target has its A and B.

    Raises:
        AdapterError: it is not plain LoRA, is for another model, lacks tensors or has some too many, holds numbers that
            are not finite, or has a B of zeros (that layer was never trained).
    """
    config = read_lora_config(folder)
    try:
        shard = read_shard(folder / ADAPTER_WEIGHTS)
    except ModelError as error:
        raise AdapterError(f"adapter: {error}") from error
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for tensor in shard.tensors:
        if _is_copy_of_base(tensor, layout):
            continue
        module, side = _place(folder, tensor, layout)
        if side in pairs.setdefault(module, {}):
            raise AdapterError(f"{folder}: {tensor.name} and {pairs[module][side].name} are for the same layer")
        pairs[module][side] = tensor
    _check_complete(folder, config, pairs, layout)
    targets = {module: _target(folder, config, module, pair, layout) for module, pair in sorted(pairs.items())}
    _check_numbers(folder, targets)
    return LoraFile(folder, config, targets, len(shard.tensors))


def read_lora_config(folder: Path) -> LoraConfig:
    """The configuration as PEFT reads it.

    Raises:
        AdapterError: it is not a plain LoRA's; says which setting and why.
    """
    raw: dict[str, Any] = read_adapter_config(folder)
    for name, why in _NOT_PLAIN.items():
        if raw.get(name):
            raise AdapterError(
                f"{folder / ADAPTER_CONFIG}: {name} is {json.dumps(raw[name])[:80]}: {why}; lorachain merges plain LoRA"
            )
    if raw.get("bias", "none") != "none":
        raise AdapterError(
            f"{folder / ADAPTER_CONFIG}: bias is {raw['bias']!r}: trained biases have no place in Gemma 3's linear "
            'layers; lorachain merges adapters with bias "none"'
        )
    if raw.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise AdapterError(
            f"{folder / ADAPTER_CONFIG}: init_lora_weights is {raw['init_lora_weights']!r}, which changed the base's "
            "weights at the start of training; convert it to plain LoRA first (PEFT: save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    try:
        return cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
    except (TypeError, ValueError, OSError) as error:
        raise AdapterError(f"{folder / ADAPTER_CONFIG} is not a LoRA's configuration: {error}") from error


def _is_copy_of_base(tensor: StoredTensor, layout: ParameterNames) -> bool:
    """Whether it is the base's own weight, byte for byte: PEFT stores head and embeddings beside a LoRA on them."""
    name = tensor.name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    key = layout.stored.get(layout.rename(name) or "")
    if key is None:
        return False
    base = layout.shards.tensors[key]
    same_kind = (tensor.dtype, tensor.shape) == (base.dtype, base.shape)
    return same_kind and tensor_sha256(tensor) == tensor_sha256(base)


def _place(folder: Path, tensor: StoredTensor, layout: ParameterNames) -> tuple[str, str]:
    """The layer in memory that a tensor of the adapter is for, and which factor it is."""
    suffix = next((s for s in _SUFFIXES if tensor.name.endswith(s)), None)
    if suffix is None:
        raise AdapterError(
            f"{folder}: tensor {tensor.name} is no LoRA factor of a linear layer (lora_A, lora_B) and no copy of the "
            "base's own weight; embeddings, whole modules and biases are not merged: Gemma 3 ties embeddings and head"
        )
    name = tensor.name.removesuffix(suffix).removeprefix(PEFT_PREFIX)
    module = layout.module_name(name)
    if module is None:
        example = next(n for n, m in layout.model.named_modules() if isinstance(m, nn.Linear) and n.endswith("q_proj"))
        raise AdapterError(
            f"{folder}: tensor {tensor.name} is for a layer that this model ({type(layout.model).__name__}) does not "
            f"have; its layers are called like {example}. The adapter belongs to another model or class, or a key was "
            "renamed"
        )
    if f"{module}.weight" in layout.tied:
        raise AdapterError(
            f"{folder}: tensor {tensor.name} adapts {module}, whose weight head and embeddings share; merged into one "
            "of them it would change the other. Train without it"
        )
    if not isinstance(layout.module(module), nn.Linear):
        raise AdapterError(
            f"{folder}: tensor {tensor.name} adapts a {type(layout.module(module)).__name__}; lorachain merges into "
            "linear layers only"
        )
    if tensor.dtype not in TORCH_DTYPES:
        raise AdapterError(f"{folder}: tensor {tensor.name} is {tensor.dtype}; allowed: {', '.join(TORCH_DTYPES)}")
    return module, _SUFFIXES[suffix]


def _check_complete(
    folder: Path, config: LoraConfig, pairs: dict[str, dict[str, StoredTensor]], layout: ParameterNames
) -> None:
    """Raises AdapterError unless the file holds A and B of exactly the layers that its configuration names."""
    for module, pair in pairs.items():
        if len(pair) < 2:
            (present,) = pair.values()
            raise AdapterError(f"{folder}: {module} has {present.name} and lacks its other factor")
    _maybe_include_all_linear_layers(config, layout.model)  # "all-linear" becomes names
    wanted = {
        name
        for name, module in layout.model.named_modules()
        if isinstance(module, nn.Linear)
        and any(check_target_module_exists(config, alias) for alias in layout.names_of(name))
    }
    for problem, modules in (("lacks the tensors of", wanted - pairs.keys()), ("adapts", pairs.keys() - wanted)):
        if modules:
            tail = "which target_modules names" if modules <= wanted else "which target_modules does not name"
            raise AdapterError(f"{folder} {problem} {len(modules)} layers, first {sorted(modules)[0]}, {tail}")
    if not pairs:
        raise AdapterError(f"{folder} holds no LoRA tensors")


def _target(
    folder: Path, config: LoraConfig, module: str, pair: dict[str, StoredTensor], layout: ParameterNames
) -> LoraTarget:
    """Rank, alpha and scale of one layer, patterns honoured as PEFT honours them; shapes checked."""
    ranks: dict[str, int] = config.rank_pattern or {}
    alphas: dict[str, float] = config.alpha_pattern or {}
    rank, alpha = config.r, float(config.lora_alpha)
    for alias in layout.names_of(module):
        rank = ranks.get(get_pattern_key(list(ranks), alias), rank)
        alpha = alphas.get(get_pattern_key(list(alphas), alias), alpha)
    linear = layout.module(module)
    assert isinstance(linear, nn.Linear)
    for side, shape in (("A", (rank, linear.in_features)), ("B", (linear.out_features, rank))):
        if pair[side].shape != shape:
            raise AdapterError(
                f"{folder}: {pair[side].name} has shape {list(pair[side].shape)}; rank {rank} on this model needs "
                f"{list(shape)}"
            )
    scale = alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
    return LoraTarget(module, rank, alpha, scale, pair["A"], pair["B"])


def _check_numbers(folder: Path, targets: dict[str, LoraTarget]) -> None:
    untrained = []
    for target in targets.values():
        a, b = target.factors()
        for tensor, factor in ((target.a, a), (target.b, b)):
            if not torch.isfinite(factor).all():
                raise AdapterError(f"{folder}: {tensor.name} holds numbers that are not finite; the training diverged")
        if not b.any() or not target.scale:
            untrained.append(target.module)
    if untrained:
        raise AdapterError(
            f"{folder}: B is all zeros in {len(untrained)} of {len(targets)} layers, first {untrained[0]}: training "
            "never reached them and merging them would do nothing. Merge the trained adapter"
        )
