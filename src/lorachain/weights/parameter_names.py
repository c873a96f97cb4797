"""How a model's parameters are named in memory, in its files and in adapters, and whether the files hold exactly them.

medgemma-4b's files say `language_model.model.layers…`, the model in memory `model.language_model.layers…`, the
text-only class `model.layers…`, older adapters any of these. Here the class is built without weights, and the renaming
that `from_pretrained` itself applies decides which name is which parameter. transformers fills a parameter that no file
has with random numbers and ignores a tensor that it does not know; here both are errors.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lorachain.errors import ModelError
from lorachain.weights.model_config import build_meta_model, read_unquantized_config
from lorachain.weights.safetensors_io import LOADABLE_DTYPES, Shards

HARMLESS_KEYS = re.compile(
    r"(^|\.)rotary_emb(_local|_global)?\.inv_freq$"  # buffers that the class computes
    r"|(^|\.)position_ids$"
    r"|(^|\.)vision_tower\.(vision_model\.)?head\."  # SigLIP's pooling head: Gemma 3 does not use it
)
"""Tensors of a file that may be unknown to the class: they cannot change what the model computes from text."""


class ModuleNames:
    """The modules of a model, found by the names that files and adapters give them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        conversions = get_model_conversion_mapping(model)
        self._renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
        self._converters = [c for c in conversions if isinstance(c, WeightConverter)]

    def parameter_name(self, key: str) -> str | None:
        """A file's key to the parameter in memory, as `from_pretrained` renames it; None if there is no such one."""
        for renamings, converters in ((self._renamings, self._converters), ([], [])):
            name, converted = rename_source_key(
                key, renamings, converters, self.model.base_model_prefix, self.parameters
            )
            # A converted tensor is one of several that form a parameter: Gemma 3 has none.
            if converted is None and name in self.parameters:
                return name
            if key not in self.parameters:
                break
        return None

    def module_name(self, name: str) -> str | None:
        """The module's name in memory, from the name that an adapter or a file gives it; None if there is none."""
        parameter = self.parameter_name(f"{name}.weight")
        return parameter.removesuffix(".weight") if parameter else None

    def module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """A model without weights, and the names of its parameters in a directory's files."""

    shards: Shards
    modules: ModuleNames
    """Of a model on the meta device: structure only."""
    stored: dict[str, str]
    """Parameter in memory -> key in the files."""
    tied: frozenset[str]
    """Parameters that share their values with another (head and embeddings)."""

    @property
    def model(self) -> PreTrainedModel:
        return self.modules.model


def read_parameter_names(shards: Shards) -> ParameterNames:
    """The structure that a directory's `config.json` describes, matched with the tensors of its files.

    Only headers are read.

    Raises:
        ModelError: the model is not a Gemma 3, is quantized, or its files do not hold exactly its parameters: one is
            missing, has another shape or is there twice, or a tensor is unknown to the class.
    """
    _check_layer_count(shards)
    modules = ModuleNames(build_meta_model(shards.folder))
    parameters = modules.parameters
    stored: dict[str, str] = {}
    unknown = []
    for key, tensor in shards.tensors.items():
        parameter = modules.parameter_name(key)
        if parameter is None:
            unknown.append(key)
            continue
        if parameter in stored:
            raise ModelError(f"{shards.folder}: {key} and {stored[parameter]} are the same parameter {parameter}")
        if tensor.shape != tuple(parameters[parameter].shape):
            raise ModelError(
                f"{shards.folder}: {key} has shape {list(tensor.shape)}, but config.json describes a model in which it "
                f"has shape {list(parameters[parameter].shape)}; use the config.json that belongs to these weights"
            )
        if tensor.dtype not in LOADABLE_DTYPES:
            raise ModelError(
                f"{shards.folder}: {key} is stored as {tensor.dtype}; allowed: {', '.join(LOADABLE_DTYPES)}. Use the "
                "original, unquantized weights"
            )
        stored[parameter] = key
    tied: dict[str, str] = modules.model.all_tied_weights_keys
    # Of two tied parameters one is enough, whichever it is.
    shared = {name for pair in tied.items() if stored.keys() & set(pair) for name in pair}
    missing = sorted(parameters.keys() - stored.keys() - shared)
    unknown = [key for key in unknown if not HARMLESS_KEYS.search(key)]
    if missing or unknown:
        raise ModelError(_explain(shards, modules.model, missing, unknown))
    return ParameterNames(shards, modules, stored, frozenset(tied) | frozenset(tied.values()))


def _check_layer_count(shards: Shards) -> None:
    """Raises ModelError unless the files have as many layers as config.json declares, before any is built."""
    config = read_unquantized_config(shards.folder)
    sections = [("decoder", config.get_text_config())]
    if config.model_type == "gemma3":
        sections.append(("vision", config.vision_config))
    for part, section in sections:
        prefix, numbers = "", set()
        for key in shards.tensors:
            before, _, after = key.rpartition("layers.")
            number = after.partition(".")[0]
            if ("vision" in before) == (part == "vision") and number.isdecimal() and len(number) < 10:
                prefix = f"{before}layers."
                numbers.add(int(number))
        declared = section.num_hidden_layers
        if not numbers or numbers == set(range(declared)):
            continue  # where there are none, the comparison of all names says so
        missing = next((number for number in range(declared) if number not in numbers), None)
        raise ModelError(
            f"{shards.folder}: config.json declares {declared} {part} layers (num_hidden_layers), its files have "
            f"{len(numbers)}: "
            + (
                f"the tensors {prefix}{missing}.… are missing. Fetch the model again"
                if missing is not None
                else f"{prefix}{max(numbers)}.… are not declared. Use the config.json that belongs to these weights"
            )
        )


def _explain(shards: Shards, model: PreTrainedModel, missing: list[str], unknown: list[str]) -> str:
    """What is missing and what is unknown, by name and by prefix, and the likely cause."""
    problems = []
    if missing:
        problems.append(f"{len(missing)} of its tensors are missing (first: {missing[0]})")
    if unknown:
        problems.append(f"{len(unknown)} tensors are unknown to it (first: {unknown[0]})")
    prefixes = ", ".join(
        f"{prefix} ({count})" for prefix, count in Counter(map(key_prefix, shards.tensors)).most_common(4)
    )
    return (
        f"{shards.folder} does not hold exactly the weights of a {type(model).__name__} (model_type "
        f"{model.config.model_type!r}): {' and '.join(problems)}. The files' tensors are named {prefixes}. "
        f"{_cause(shards.tensors, model.config.model_type, unknown)}"
    )


def _cause(keys: Iterable[str], model_type: str, unknown: list[str]) -> str:
    keys = list(keys)
    if any(".lora_" in key or ".base_layer." in key or key.startswith("base_model.") for key in keys):
        return (
            "They were saved with PEFT's prefixes: merge the adapter (PEFT: merge_and_unload), then save with "
            "save_pretrained"
        )
    vision = any("vision_tower" in key for key in keys)
    if model_type == "gemma3_text" and (vision or any("language_model" in key for key in unknown)):
        return "These are weights of the multimodal class: use its config.json (model_type 'gemma3')"
    if model_type == "gemma3" and not vision:
        return "These are weights of the text-only class: use its config.json (model_type 'gemma3_text')"
    return "Fetch the model again, or save it with save_pretrained"


def key_prefix(key: str) -> str:
    """The part of a key in front of the layer or the parameter: `language_model.model.` of a layer's weight."""
    before, layers, _ = key.partition("layers.")
    return before + "…" if layers else ".".join(key.split(".")[:2])
