"""`config.json` of a Gemma 3 model, checked before transformers interprets it, and the class it describes.

A model directory may come from anyone, and transformers follows several instructions in it: `auto_map` names Python
code to run, `_attn_implementation` a kernel to download, `transformers_weights` and `configuration_files` other files
to load in place of the usual ones. An adapter in the directory is applied without being asked for. All of these are
refused or overridden here; the configuration that is built is the one in `config.json`, from the JSON that was
checked.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from lorachain.errors import ModelError
from lorachain.provenance import MAX_JSON_BYTES, load_json

ATTENTION = "sdpa"
"""Requested explicitly in every load, so that a configuration cannot name another implementation."""
MAX_LAYERS = 1_000
"""Gemma 3 27B has 62; transformers builds lists of this length while it reads a configuration."""
_CONFIGS: dict[str, Any] = {"gemma3_text": Gemma3TextConfig, "gemma3": Gemma3Config}
_MODELS: dict[str, Any] = {"gemma3_text": Gemma3ForCausalLM, "gemma3": Gemma3ForConditionalGeneration}
SUPPORTED_MODEL_TYPES = tuple(_CONFIGS)
_SUBCONFIG_TYPES = {"text_config": "gemma3_text", "vision_config": "siglip_vision_model"}
_REFUSED_KEYS = {
    "auto_map": "names Python code to load the model with, which lorachain never runs",
    "transformers_weights": "names the weights to load; lorachain loads model.safetensors or what its index lists",
    "configuration_files": "names other configurations; lorachain reads config.json",
    "fusion_config": "replaces layers of the model",
    "distributed_config": "distributes the model",
}
_IGNORED_KEYS = (
    # How a caller wants results: lorachain says so itself with every call.
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("output_attentions", "output_hidden_states", "return_dict"),
    # Only the multimodal class has sections, and no section has any; transformers would take them for the text model.
    *("text_config", "vision_config", "text_encoder", "decoder", "generator"),
)
_LARGEST = 2**31 - 1
_SIZES = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"), _LARGEST),
    **dict.fromkeys(("head_dim", "vocab_size", "sliding_window", "max_position_embeddings"), _LARGEST),
    **dict.fromkeys(("image_token_index", "boi_token_index", "eoi_token_index"), _LARGEST),
    "num_hidden_layers": MAX_LAYERS,
}
_POSITIVE_NUMBERS = ("query_pre_attn_scalar", "rms_norm_eps")
_DISTRIBUTED_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def read_model_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the Gemma 3 model in a directory.

    Raises:
        ModelError: there is none, it is invalid, it describes another model, or it asks for code or files that are
            not loaded.
    """
    raw = _read_raw(folder)
    try:
        config: PreTrainedConfig = _CONFIGS[raw["model_type"]].from_dict(raw)
    except Exception as error:  # an untrusted file: any error means that it is invalid
        raise ModelError(f"{folder / 'config.json'} is not a valid configuration: {error}") from error
    config.name_or_path = str(folder)
    return config


def model_class(config: PreTrainedConfig) -> Any:
    """`Gemma3ForCausalLM` (text only) or `Gemma3ForConditionalGeneration` (multimodal)."""
    return _MODELS[config.model_type]


def build_meta_model(folder: Path) -> PreTrainedModel:
    """The class that `config.json` describes, on the meta device: no weights are read and none are allocated.

    Raises:
        ModelError: as `read_model_config`; the model is quantized, or no model can be built from its configuration.
    """
    config = read_unquantized_config(folder)
    try:
        with torch.device("meta"):
            # What `AutoModel.from_config` calls once it has looked up the class.
            model: PreTrainedModel = model_class(config)._from_config(config, attn_implementation=ATTENTION)
    except Exception as error:  # an untrusted file: any error means that it is invalid
        raise ModelError(f"{folder / 'config.json'} describes no model that can be built: {error}") from error
    return model


def read_unquantized_config(folder: Path) -> PreTrainedConfig:
    """`read_model_config` of a model whose weights are not quantized.

    Raises:
        ModelError: also where the weights are quantized.
    """
    config = read_model_config(folder)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{folder} is quantized; use the original weights that it was made from. To train a LoRA on a base in 4 or "
            "8 bits, set `quantization` in a --config file"
        )
    return config


def refuse_huge_json(folder: Path) -> None:
    """Raises ValueError where a JSON file of the directory is larger than lorachain reads."""
    for path in folder.glob("*.json"):
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, more than the {MAX_JSON_BYTES:,} allowed")


def _read_raw(folder: Path) -> dict[str, Any]:
    """The JSON of `config.json`, without what is ignored.

    Raises:
        ModelError: as `read_model_config`, except for values that only transformers can judge.
    """
    path = folder / "config.json"
    try:
        refuse_huge_json(folder)
        raw = load_json(path)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model directory: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is not a model directory: config.json cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} must contain a JSON object, not {type(raw).__name__}")
    if raw.get("model_type") not in SUPPORTED_MODEL_TYPES:
        raise ModelError(
            f"{folder} contains a model of type {raw.get('model_type')!r}; lorachain trains Gemma 3 "
            f"({', '.join(SUPPORTED_MODEL_TYPES)})"
        )
    sections = [("", raw), *((key, raw[key]) for key in _SUBCONFIG_TYPES if raw.get(key) is not None)]
    for name, section in sections:
        if not isinstance(section, dict):
            raise ModelError(f"{path}: {name} must be an object, not {type(section).__name__}")
        if name and section.get("model_type", _SUBCONFIG_TYPES[name]) != _SUBCONFIG_TYPES[name]:
            raise ModelError(
                f"{path}: {name}.model_type is {section['model_type']!r}; allowed: {_SUBCONFIG_TYPES[name]}"
            )
        _check_numbers(path, section)
    for key, reason in _REFUSED_KEYS.items():
        if _has_value(raw, key):
            raise ModelError(f"{path}: {key} {reason}. Remove the entry if the model works without it")
    _refuse_other_weights(folder)
    kept = _without_ignored(raw)
    if raw["model_type"] == "gemma3":
        kept |= {key: _without_ignored(raw[key]) for key in _SUBCONFIG_TYPES if raw.get(key) is not None}
    return kept


def _has_value(content: object, key: str) -> bool:
    """Whether anything is set under `key` anywhere in a JSON value."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get(key):
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


def _check_numbers(path: Path, section: dict[str, Any]) -> None:
    """Raises ModelError for sizes that transformers accepts and fails on only while it computes."""
    for key, most in _SIZES.items():
        if key in section and (type(section[key]) is not int or not 0 < section[key] <= most):
            raise ModelError(f"{path}: {key} is {section[key]!r}; allowed: 1 to {most:,}")
    for key in _POSITIVE_NUMBERS:
        if key in section and (type(section[key]) not in (int, float) or not 0 < section[key] < float("inf")):
            raise ModelError(f"{path}: {key} is {section[key]!r}; allowed: a number above 0")


def _without_ignored(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in _IGNORED_KEYS}


def _refuse_other_weights(folder: Path) -> None:
    """Raises ModelError where transformers would load other weights than the model's own files, or more."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} contains both a model (config.json) and an adapter (adapter_config.json), which transformers "
            "would apply to it unasked. Move the adapter's files to a directory of their own"
        )
    distributed = sorted(path.name for path in folder.iterdir() if _DISTRIBUTED_SHARD.fullmatch(path.name))
    if distributed:
        raise ModelError(
            f"{folder} contains a distributed checkpoint ({distributed[0]}); lorachain loads model.safetensors or what "
            "its index lists. Save the model with save_pretrained"
        )
