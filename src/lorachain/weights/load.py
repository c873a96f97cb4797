"""A model directory to a model in memory; where its decoder and head are.

Both Gemma 3 classes are supported: text-only (`Gemma3ForCausalLM`: 27b-text, 270m) and multimodal
(`Gemma3ForConditionalGeneration`: 4b-it). The structure comes from the model itself (`get_decoder`,
`get_output_embeddings`), not from key names.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from lorachain.chat_template import template_from_files
from lorachain.collection import collection_paused
from lorachain.config import Quantization
from lorachain.errors import DeviceError, ModelError
from lorachain.provenance import load_json, sha256_file, sha256_json
from lorachain.tokens import Tokenizer
from lorachain.weights.attention_choice import use_fast_attention
from lorachain.weights.checks import check_finite, check_tokenizer, check_weights, has_weights
from lorachain.weights.model_config import (
    ATTENTION,
    model_class,
    read_unquantized_config,
    refuse_huge_json,
)
from lorachain.weights.parameter_names import HARMLESS_KEYS, ParameterNames
from lorachain.weights.quantized import keep_one_layout, quantized_loading
from lorachain.weights.safetensors_io import is_finite, open_shards

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "chat_template.jinja"),
)

_VISION = frozenset({"vision_tower", "multi_modal_projector"})
"""The parts of the multimodal class that text does not run."""
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model")


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first available accelerator, else the CPU.

    A GPU becomes the current one: what allocates on `cuda` without a number (a library's workspaces) then uses it, and
    no context is created on another.

    Raises:
        DeviceError: the machine does not have the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise DeviceError(f"device {name!r} holds no values; allowed: auto, {', '.join(available)}")
        if device.type == "cuda" and device.index is not None and str(device) in available:
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} is not available; allowed: auto, {', '.join(available)}") from error
    return device


def load_model(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.bfloat16, quantization: Quantization = "none"
) -> PreTrainedModel:
    """The base model in a directory, weights straight to `device` in `dtype` (bf16: Gemma 3 overflows in fp16).

    Exactly the safetensors files that `open_shards` lists are loaded, after `check_weights`; nothing is unpickled and
    no code from the directory is run. With a `quantization` the decoder's linear layers are held in it.

    Raises:
        ModelError: the directory does not contain a Gemma 3 model, its weights are quantized already, or they are
            incomplete, broken, not those of its class, or not finite.
        ConfigError: bitsandbytes is not installed.
    """
    names = check_weights(folder)
    config = read_unquantized_config(folder)
    options: dict[str, Any] = {}
    if quantization != "none":
        linear = {name for name, module in names.model.named_modules() if isinstance(module, nn.Linear)}
        kept = linear.difference(decoder_linears(names.model))
        options["quantization_config"] = quantized_loading(quantization, dtype, kept)
    try:
        with ExitStack() as stack:
            slices: dict[str, Any] = {}
            for shard in names.shards.shards:
                file = stack.enter_context(safe_open(shard.file, framework="pt"))
                slices |= {tensor.name: file.get_slice(tensor.name) for tensor in shard.tensors}
            # With the tensors given, transformers does not look for files itself.
            model, info = model_class(config).from_pretrained(
                None,
                config=config,
                state_dict=slices,
                generation_config=_generation_config(folder),
                dtype=dtype,
                device_map={"": device},
                attn_implementation=ATTENTION,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # untrusted files: any error means that they cannot be loaded
        raise ModelError(f"{folder} cannot be loaded as a model: {type(error).__name__}: {error}") from error
    model.name_or_path = model.config.name_or_path = str(folder)
    _check_loaded(folder, names, model, info)
    keep_one_layout(model)
    model.train(False)
    use_fast_attention(model)
    return cast(PreTrainedModel, model)


def configured_end_ids(config: GenerationConfig | None) -> set[int]:
    """The ids that end a sequence by a generation configuration, which can name one, several or none."""
    ids = config.eos_token_id if config is not None else None
    return {ids} if isinstance(ids, int) else set(ids or ())


def folder_end_ids(folder: Path) -> set[int]:
    """`configured_end_ids` of a model's directory."""
    return configured_end_ids(_generation_config(folder))


def _generation_config(folder: Path) -> GenerationConfig | None:
    """`generation_config.json`; None where there is none: transformers then derives one from the configuration."""
    path = folder / "generation_config.json"
    return GenerationConfig.from_dict(load_json(path)) if path.is_file() else None


def _check_loaded(folder: Path, names: ParameterNames, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raises ModelError unless transformers took every parameter from the files, and all values are finite."""
    unexpected = [key for key in info["unexpected_keys"] if not HARMLESS_KEYS.search(key)]
    problems = {
        "were not found": info["missing_keys"],
        "were not used": unexpected,
        "have another shape": info["mismatched_keys"],
        "failed": info["error_msgs"],
    }
    for problem, found in problems.items():
        if found:
            raise ModelError(
                f"{folder}: {len(found)} tensors {problem} while loading, first {sorted(map(str, found))[0]}"
            )
    quantized = set()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ModelError(f"{folder}: {name} was not loaded")
        if not parameter.is_floating_point():
            quantized.add(names.stored[name])
        elif not is_finite(parameter.detach()):
            check_finite(folder, [names.stored[name]])  # names the file, unless `dtype` made the value infinite
            raise ModelError(f"{folder}: {name} has values too large for {parameter.dtype}")
    if quantized:  # their values in memory are codes
        check_finite(folder, quantized)


def comparison_dtype(folder: Path) -> torch.dtype:
    """The type to compare a model's logits in: bf16 where all weights are bf16, else float32.

    Never float16: Gemma 3's activations overflow in it.

    Raises:
        ModelError: the weights are missing or broken.
    """
    dtypes = {tensor.dtype for tensor in open_shards(folder).tensors.values()}
    return torch.bfloat16 if dtypes == {"BF16"} else torch.float32


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model's or adapter's directory.

    Raises:
        ModelError: there is none, it cannot be read, it asks for Python code to be run, or weights in the same
            directory have no embedding for some of its tokens.
    """
    try:
        refuse_huge_json(folder)
        if not any((folder / name).is_file() for name in VOCABULARY_FILES):  # the library's message names no file
            raise ValueError(
                f"neither {' nor '.join(VOCABULARY_FILES)} is there; copy the tokenizer files published with the model"
            )
        path = folder / "tokenizer_config.json"
        if path.is_file() and "auto_map" in load_json(path):
            raise ValueError("tokenizer_config.json: auto_map names Python code, which lorachain never runs")
        with collection_paused():
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = cast(Tokenizer, loaded)
        tokenizer("환자 a-1 🧬", add_special_tokens=False)  # some faults show only now
    except Exception as error:  # the tokenizers library raises plain Exception for a broken file
        raise ModelError(f"{folder} has no usable tokenizer: {error}") from error
    tokenizer.chat_template = tokenizer.chat_template or template_from_files(folder)
    if has_weights(folder):
        check_tokenizer(folder, tokenizer)
    return tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """A hash of the tokenizer's files: equal where every text has the same ids.

    Raises:
        OSError: one of them exists and cannot be read.
    """
    return sha256_json({name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).exists()})


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper (its LoRA layers still in place), or the model itself."""
    inner: Any = model
    return cast(PreTrainedModel, inner.get_base_model() if hasattr(inner, "get_base_model") else inner)


def drop_vision_tower(model: PreTrainedModel) -> None:
    """Frees the vision tower and its projector, where the class has them: text never runs them (0.8 GB at 4B).

    Nothing that is written afterwards has less: adapters hold the language model's layers, and a merge reads the base's
    files.
    """
    for module in list(model.modules()):
        for name in _VISION.intersection(name for name, _ in module.named_children()):
            delattr(module, name)


def is_sharded(model: nn.Module) -> bool:
    """Whether its layers are sharded (FSDP2): a forward pass then needs all processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def text_decoder(model: nn.Module) -> nn.Module:
    """The text decoder: ids in, `last_hidden_state` (B, T, H) out, without the head."""
    inner: Any = plain_model(model)
    decoder = inner.get_decoder()
    # The multimodal class' decoder is the composite that also holds the vision tower.
    return cast(nn.Module, getattr(decoder, "language_model", decoder))


def decoder_linears(model: PreTrainedModel) -> list[str]:
    """Full names of the language model's linear layers, without the head and the vision tower's."""
    decoder = text_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    return [f"{prefix}.{name}" for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]


def head_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, H), tied to the embeddings."""
    inner: Any = plain_model(model)
    return cast(Tensor, inner.get_output_embeddings().weight)
