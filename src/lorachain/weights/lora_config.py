"""`adapter_config.json`, checked before PEFT interprets it."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig

from lorachain.errors import AdapterError
from lorachain.provenance import load_json

ADAPTER_CONFIG = "adapter_config.json"
MAX_NAMES = 10_000
"""Entries of target_modules or rank_pattern; Gemma 3 27B has 434 linear layers."""
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
    "lora_bias": "Gemma 3's linear layers have no biases to merge it into",
    "target_parameters": "it adapts parameters that do not belong to a linear layer",
    "trainable_token_indices": "it holds rows of the embeddings, which are tied to the head",
    "modules_to_save": "it holds whole modules besides the LoRA",
}
# Never given to PEFT: they change the model's structure or import what the file names.
_REFUSED = {
    "layer_replication": "the adapter is for a model with repeated layers",
    "megatron_config": "its layers are distributed by Megatron",
}
# Initializations that subtract their start from the base's weights: such factors fit the changed base only.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def read_adapter_config(folder: Path) -> dict[str, object]:
    """The JSON of `adapter_config.json`.

    Raises:
        AdapterError: the directory has none, or it does not belong to a LoRA.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config = load_json(path)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read as an adapter's configuration: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path} must contain a JSON object, not {type(config).__name__}")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {config.get('peft_type')!r}; lorachain chains LORA adapters")
    return config


def read_plain_lora_config(folder: Path) -> LoraConfig:
    """The configuration of a LoRA that can be merged as W + scale*B@A.

    Raises:
        AdapterError: it cannot; says which setting and why. Also as `read_lora_config`.
    """
    path, raw = folder / ADAPTER_CONFIG, cast(dict[str, Any], read_adapter_config(folder))
    for name, why in _NOT_PLAIN.items():
        if raw.get(name):
            raise AdapterError(f"{path}: {name} is {json.dumps(raw[name])[:80]}: {why}; lorachain merges plain LoRA")
    if raw.get("bias", "none") != "none":
        raise AdapterError(
            f"{path}: bias is {raw['bias']!r}, but Gemma 3's linear layers have no biases to merge it into; lorachain "
            'merges adapters with bias "none"'
        )
    if raw.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise AdapterError(
            f"{path}: init_lora_weights is {raw['init_lora_weights']!r}, which changed the base's weights at the start "
            "of training; convert it to plain LoRA first (PEFT: save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    return read_lora_config(folder)


def read_lora_config(folder: Path) -> LoraConfig:
    """The configuration as PEFT reads it, its values checked first.

    Raises:
        AdapterError: a value has the wrong type or is out of range, or is never given to PEFT.
    """
    path, raw = folder / ADAPTER_CONFIG, cast(dict[str, Any], read_adapter_config(folder))
    for name, why in _REFUSED.items():
        if raw.get(name):
            raise AdapterError(
                f"{path}: {name} is {json.dumps(raw[name])[:80]}: {why}, which lorachain does not support"
            )
    for name, (is_valid, allowed) in _VALUES.items():
        value = raw.get(name)
        if not (is_valid(value) if name in raw else name != "target_modules"):
            raise AdapterError(f"{path}: {name} is {json.dumps(value)[:80]}; allowed: {allowed}")
    try:
        return cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
    except Exception as error:  # an untrusted file: any error means that it is invalid
        raise AdapterError(f"{path} is not a LoRA's configuration: {error}") from error


def _is_rank(value: object) -> bool:
    return type(value) is int and value > 0


def _is_alpha(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


def _is_pattern_table(is_valid: Callable[[object], bool]) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return value is None or (
            isinstance(value, dict) and len(value) <= MAX_NAMES and all(is_valid(entry) for entry in value.values())
        )

    return check


def _are_names(value: object) -> bool:
    is_list = isinstance(value, list) and len(value) <= MAX_NAMES and all(isinstance(name, str) for name in value)
    return isinstance(value, str) or is_list


def _are_layers(value: object) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return value is None or (len(numbers) <= MAX_NAMES and all(type(number) is int for number in numbers))


def _are_layer_patterns(value: object) -> bool:
    """PEFT matches them with `re`: names only, so that they cannot backtrack."""
    patterns = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(p, str) and re.fullmatch(r"[\w.]{0,200}", p) for p in patterns)


_VALUES: dict[str, tuple[Callable[[object], bool], str]] = {
    "r": (_is_rank, "an integer of at least 1"),
    "lora_alpha": (_is_alpha, "a finite number"),
    "rank_pattern": (_is_pattern_table(_is_rank), f"a table of integers, up to {MAX_NAMES:,}"),
    "alpha_pattern": (_is_pattern_table(_is_alpha), f"a table of finite numbers, up to {MAX_NAMES:,}"),
    "target_modules": (_are_names, f"a pattern, or a list of up to {MAX_NAMES:,} names"),
    "exclude_modules": (lambda value: value is None or _are_names(value), f"a pattern, or up to {MAX_NAMES:,} names"),
    "modules_to_save": (lambda value: value is None or _are_names(value), f"up to {MAX_NAMES:,} names"),
    "layers_to_transform": (_are_layers, "an integer, or a list of integers"),
    "layers_pattern": (_are_layer_patterns, "names of letters, digits, underscores and dots"),
}
