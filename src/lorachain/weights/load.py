"""A folder or hub snapshot of weights to a model in memory; where its decoder and head are.

Both Gemma 3 classes come through here: text-only (`Gemma3ForCausalLM`: 27b-text, 270m) and multimodal
(`Gemma3ForConditionalGeneration`: 4b-it). The structure is asked of the model itself (`get_decoder`,
`get_output_embeddings`), never guessed from key names.
"""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from lorachain.chat_template import template_from_files
from lorachain.config import Quantization
from lorachain.errors import DeviceError, ModelError
from lorachain.provenance import MAX_JSON_BYTES, load_json, sha256_file, sha256_json
from lorachain.tokens import Tokenizer
from lorachain.weights.attention import use_blockwise_attention
from lorachain.weights.quantized import keep_one_layout, quantized_loading

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "chat_template.jinja"),
)
SUPPORTED_MODEL_TYPES = ("gemma3_text", "gemma3")


def resolve_device(name: str) -> torch.device:
    """`auto` is the first accelerator there is, else the CPU.

    Raises:
        DeviceError: the device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise DeviceError(f"device {name!r} is not available; this machine has: {', '.join(found)}") from error
    return device


def load_model(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.bfloat16, quantization: Quantization = "none"
) -> PreTrainedModel:
    """The base model of a local folder, weights straight to `device` in `dtype` (bf16: Gemma 3 overflows fp16).

    Only safetensors are read: a pickle can run code. With a `quantization` the decoder's linear layers are held in it.

    Raises:
        ModelError: the folder is not a Gemma 3 model, or its weights are quantized already, incomplete or broken.
        ConfigError: bitsandbytes is not installed.
    """
    config = _read_unquantized_config(folder)
    options: dict[str, Any] = {}
    if quantization != "none":
        structure = skeleton(folder)
        linear = {name for name, module in structure.named_modules() if isinstance(module, nn.Linear)}
        kept = linear.difference(decoder_linears(structure))
        options["quantization_config"] = quantized_loading(quantization, dtype, kept)
    try:
        model = _auto_class(config).from_pretrained(
            folder, dtype=dtype, device_map={"": device}, use_safetensors=True, local_files_only=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded as a model: {error}") from error
    keep_one_layout(model)
    model.train(False)
    use_blockwise_attention(model)
    return cast(PreTrainedModel, model)


def skeleton(folder: Path) -> PreTrainedModel:
    """The class that `config.json` names, on the meta device: no weights are read, no memory is used.

    Raises:
        ModelError: it is no Gemma 3, or it is quantized.
    """
    config = _read_unquantized_config(folder)
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(config).from_config(config)
    return model


def _read_unquantized_config(folder: Path) -> PreTrainedConfig:
    config = read_model_config(folder)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{folder} is quantized; use the original weights that it was made from. With `quantization` in a --config "
            "file they are held in 4 or 8 bits while a LoRA is trained"
        )
    return config


def _auto_class(config: PreTrainedConfig) -> Any:
    return AutoModelForCausalLM if config.model_type == "gemma3_text" else AutoModelForImageTextToText


def read_model_config(folder: Path) -> PreTrainedConfig:
    """The `config.json` of a Gemma 3.

    Raises:
        ModelError: there is none, it cannot be read, or it is another model's.
    """
    try:
        _refuse_huge_json(folder)
        load_json(folder / "config.json")
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a file from elsewhere: whatever transformers stumbles over is the file's fault
        raise ModelError(f"{folder} is no model's folder: config.json: {error}") from error
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise ModelError(
            f"{folder} holds a model of type {config.model_type!r}; lorachain trains Gemma 3 "
            f"({', '.join(SUPPORTED_MODEL_TYPES)})"
        )
    return config


def _refuse_huge_json(folder: Path) -> None:
    for path in folder.glob("*.json"):
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, more than the {MAX_JSON_BYTES:,} allowed")


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that a model's weights are stored in, as its configuration says; bf16 where it does not."""
    config = read_model_config(folder)
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.bfloat16


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that lies in a model's or adapter's folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        _refuse_huge_json(folder)
        tokenizer = cast(Tokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise ModelError(f"{folder} has no usable tokenizer: {error}") from error
    tokenizer.chat_template = tokenizer.chat_template or template_from_files(folder)
    return tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """Of the files that a tokenizer is made of: equal where every text has the same ids.

    Raises:
        OSError: one of them is there and cannot be read.
    """
    return sha256_json({name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).exists()})


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper (its LoRA layers still in place), or the model itself."""
    inner: Any = model
    return cast(PreTrainedModel, inner.get_base_model() if hasattr(inner, "get_base_model") else inner)


def is_sharded(model: nn.Module) -> bool:
    """Whether its layers lie in parts (FSDP2): it then computes only while all processes do."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def text_decoder(model: nn.Module) -> nn.Module:
    """The text decoder: ids in, `last_hidden_state` (B, T, H) out, without the head."""
    inner: Any = plain_model(model)
    decoder = inner.get_decoder()
    # The multimodal class' decoder is the composite that also holds the vision tower.
    return cast(nn.Module, getattr(decoder, "language_model", decoder))


def decoder_linears(model: PreTrainedModel) -> list[str]:
    """Full names of the language model's linear layers; the head and the vision tower's are not among them."""
    decoder = text_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    return [f"{prefix}.{name}" for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]


def head_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, H), tied to the embeddings."""
    inner: Any = plain_model(model)
    return cast(Tensor, inner.get_output_embeddings().weight)
