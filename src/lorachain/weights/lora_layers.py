"""Which layers of a model an adapter adapts, and with what rank and alpha: as PEFT would decide it.

PEFT matches the patterns of an adapter's configuration against the names that modules have in memory. These depend on
the version of transformers (Gemma 3's language model was `language_model.model` up to 4.51 and is
`model.language_model` since), so the names that count are those that the adapter's own tensors were saved under.
"""

import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists
from torch import nn

from lorachain.errors import AdapterError, ModelError
from lorachain.weights.name_patterns import NamePattern, StepBudget
from lorachain.weights.parameter_names import ModuleNames
from lorachain.weights.safetensors_io import Shard, StoredTensor, read_shard

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
_FACTOR = re.compile(r"\.lora_([AB])\.weight$")
_FACTOR_WITH_ADAPTER_NAME = re.compile(r"\.lora_[AB]\.([^.]+)\.weight$")
_EMBEDDING_FACTOR = re.compile(r"\.lora_embedding_([AB])$")
# How the parts of the multimodal class were named in memory, by prefix: transformers 5, 4.52 to 4.57, up to 4.51, and
# files saved by transformers 5, whose keys other tools copy.
_NAMINGS: tuple[dict[str, str], ...] = (
    {},
    {"model.vision_tower.": "model.vision_tower.vision_model."},
    {
        "model.language_model.": "language_model.model.",
        "lm_head": "language_model.lm_head",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
    {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    },
)


@dataclass(frozen=True, slots=True)
class Factor:
    """A tensor of an adapter's file that is one of a layer's two factors."""

    tensor: StoredTensor
    module: str
    """The layer's name in memory."""
    written: str
    """Its name in the file."""
    side: str
    """`A` or `B`."""


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """What an adapter's configuration says about one layer."""

    rank: int
    alpha: float


def open_adapter_weights(folder: Path) -> Shard:
    """The header of an adapter's weights.

    Raises:
        AdapterError: the file is missing or broken, or is not a safetensors file.
    """
    try:
        return read_shard(folder / ADAPTER_WEIGHTS)
    except ModelError as error:
        raise AdapterError(f"adapter: {error}") from error


def find_factors(folder: Path, shard: Shard, modules: ModuleNames) -> tuple[list[Factor], list[StoredTensor]]:
    """The LoRA factors of an adapter's file with their layers, and the tensors that are none.

    Raises:
        AdapterError: a factor is for a layer that the model does not have, or two are the same.
    """
    factors: dict[tuple[str, str], Factor] = {}
    others = []
    for tensor in shard.tensors:
        match = _FACTOR.search(tensor.name) or _EMBEDDING_FACTOR.search(tensor.name)
        if match is None:
            if named := _FACTOR_WITH_ADAPTER_NAME.search(tensor.name):
                raise AdapterError(
                    f"{folder}: the key of tensor {tensor.name} contains the name of an adapter ({named[1]!r}): it was "
                    f"saved from state_dict(). Save the adapter with PEFT's save_pretrained, or remove '.{named[1]}' "
                    "from the keys"
                )
            others.append(tensor)
            continue
        written = tensor.name[: match.start()].removeprefix(PEFT_PREFIX)
        module = modules.module_name(written)
        if module is None:
            example = next(n for n, m in modules.model.named_modules() if n.endswith("q_proj"))
            raise AdapterError(
                f"{folder}: tensor {tensor.name} is for a layer that this model ({type(modules.model).__name__}) does "
                f"not have; its layers are named like {example}. The adapter belongs to another model or class, or a "
                "key was renamed"
            )
        factor = Factor(tensor, module, written, match[1])
        other = factors.setdefault((module, factor.side), factor)
        if other is not factor:
            raise AdapterError(f"{folder}: {tensor.name} and {other.tensor.name} are for the same layer")
    return list(factors.values()), others


def adapted_layers(
    folder: Path, config: LoraConfig, factors: Iterable[Factor], modules: ModuleNames
) -> dict[str, LayerSettings]:
    """Rank and alpha of each layer in an adapter's file, by its name in memory.

    Raises:
        AdapterError: the file does not hold A and B of exactly the layers that the configuration names, or a pattern
            cannot be used.
    """
    pairs: dict[str, list[Factor]] = {}
    for factor in factors:
        pairs.setdefault(factor.module, []).append(factor)
    for module, pair in pairs.items():
        if len(pair) < 2:
            raise AdapterError(f"{folder}: {module} has {pair[0].tensor.name} and lacks its other factor")
    if not pairs:
        raise AdapterError(f"{folder} contains no LoRA tensors")
    budget = StepBudget()
    namings = _possible_namings({module: pair[0].written for module, pair in pairs.items()}, modules)
    targets = [_targets(config, naming, modules, budget) for naming in namings]
    # Where several versions of transformers fit the tensors' names, the one whose modules are those in the file.
    chosen = next((n for n, named in enumerate(targets) if named == pairs.keys()), 0)
    for problem, layers in (
        ("lacks the tensors of", targets[chosen] - pairs.keys()),
        ("adapts", pairs.keys() - targets[chosen]),
    ):
        if layers:
            relation = (
                "which target_modules names" if layers <= targets[chosen] else "which target_modules does not name"
            )
            raise AdapterError(f"{folder} {problem} {len(layers)} layers, first {sorted(layers)[0]}, {relation}")
    ranks = _KeyTable(config.rank_pattern or {}, budget)
    alphas = _KeyTable(config.alpha_pattern or {}, budget)
    naming = namings[chosen]
    return {
        module: LayerSettings(
            int(ranks.get(naming[module], config.r)), float(alphas.get(naming[module], config.lora_alpha))
        )
        for module in sorted(pairs)
    }


def explicit_config(config: LoraConfig, layers: Mapping[str, LayerSettings]) -> LoraConfig:
    """The same adaptation with every layer named as in memory, so that PEFT has no pattern left to match."""

    def exceptions(values: Mapping[str, float], default: float) -> dict[str, float]:
        return {f"^{re.escape(module)}": value for module, value in values.items() if value != default}

    explicit: Any = copy(config)
    explicit.target_modules = set(layers)
    explicit.exclude_modules = explicit.layers_to_transform = explicit.layers_pattern = None
    explicit.rank_pattern = exceptions({module: layer.rank for module, layer in layers.items()}, config.r)
    explicit.alpha_pattern = exceptions({module: layer.alpha for module, layer in layers.items()}, config.lora_alpha)
    return cast(LoraConfig, explicit)


def is_explicit(config: LoraConfig, factors: Iterable[Factor]) -> bool:
    """Whether PEFT can be given the configuration as it is: no patterns, and names as in memory."""
    return (
        not isinstance(config.target_modules, str)
        and not isinstance(config.exclude_modules, str)
        and not config.rank_pattern
        and not config.alpha_pattern
        and all(factor.written == factor.module for factor in factors)
    )


def _possible_namings(written: Mapping[str, str], modules: ModuleNames) -> list[dict[str, str]]:
    """Module in memory -> the name by which the adapter's configuration calls it; the written ones are certain."""
    named = [name for name, module in modules.model.named_modules() if isinstance(module, _ADAPTABLE)]
    namings = [{name: _renamed(name, prefixes) for name in named} for prefixes in _NAMINGS]
    fitting = [n for i, n in enumerate(namings) if n not in namings[:i] and n.items() >= written.items()]
    # Keys that no version of transformers writes: what is not in the file keeps its name in memory.
    return fitting or [namings[0] | dict(written)]


_ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv2d)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def _targets(config: LoraConfig, naming: Mapping[str, str], modules: ModuleNames, budget: StepBudget) -> set[str]:
    """The layers that the configuration names, by their names in memory."""
    names: Any = copy(config)  # its attributes are replaced by what they match
    excluded, target = config.exclude_modules, config.target_modules
    if isinstance(excluded, str):
        pattern = NamePattern(excluded, budget)
        naming = {module: name for module, name in naming.items() if not pattern.fullmatch(name)}
        names.exclude_modules = None
    saved = [NamePattern(rf"(^|.*\.){name}($|\..*)", budget) for name in config.modules_to_save or []]
    naming = {module: name for module, name in naming.items() if not any(p.match(name) for p in saved)}
    names.modules_to_save = None
    if isinstance(target, str) and target.lower() == "all-linear":
        # By names in memory, whatever the version.
        every = set(cast(Any, _maybe_include_all_linear_layers(names, modules.model)).target_modules)
        names.target_modules = {naming[module] for module in every if module in naming}
    elif isinstance(target, str):
        pattern = NamePattern(target, budget)
        naming = {module: name for module, name in naming.items() if pattern.fullmatch(name)}
        names.target_modules = set(naming.values())
    return {module for module, name in naming.items() if check_target_module_exists(names, name) is True}


class _KeyTable:
    """rank_pattern or alpha_pattern: the first key that matches the end of a name decides."""

    def __init__(self, values: Mapping[str, float], budget: StepBudget) -> None:
        self._values = values
        self._patterns = {key: NamePattern(key, budget, of_key=True) for key in values}

    def get(self, name: str, default: float) -> float:
        key = next((key for key, pattern in self._patterns.items() if pattern.match(name)), name)
        return self._values.get(key, default)


def check_shapes(
    folder: Path, factors: Iterable[Factor], layers: Mapping[str, LayerSettings], modules: ModuleNames
) -> None:
    """Raises AdapterError unless A is (rank, in) and B (out, rank) of each layer, before anything is allocated."""
    for factor in factors:
        module, rank = modules.module(factor.module), layers[factor.module].rank
        shape = factor.tensor.shape
        if isinstance(module, nn.Linear):
            expected = (rank, module.in_features) if factor.side == "A" else (module.out_features, rank)
            if shape != expected:
                raise AdapterError(
                    f"{folder}: {factor.tensor.name} has shape {list(shape)}; rank {rank} on this model needs "
                    f"{json.dumps(expected)}"
                )
        elif rank not in shape:
            raise AdapterError(f"{folder}: {factor.tensor.name} has shape {list(shape)}, but its rank is {rank}")
