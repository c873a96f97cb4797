"""Bytes that training needs, from a model's structure: built on the meta device, so that no weights are needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from lorachain.artifacts import StageMemory
from lorachain.chain.context import stage_config
from lorachain.chain.runtime import dtype_of
from lorachain.chain.stages import Stage
from lorachain.config import ChainConfig, Quantization
from lorachain.training.activations import activation_bytes, layer_bytes, recomputed_bytes
from lorachain.training.loss import ROW_BLOCK, VOCABULARY_BLOCK
from lorachain.weights.load import decoder_linears, drop_vision_tower, text_decoder
from lorachain.weights.lora import language_model_targets
from lorachain.weights.model_config import build_meta_model

_LORA_TRAINING_BYTES = 18
"""Per parameter: bf16 factor, float32 gradient, master and two Adam moments."""
_CPU_LAYERS, _CPU_PROCESS_BYTES = 6.8, 66_000_000
"""On a CPU the C library does not give back all that tensors have freed, and kernels keep buffers: as much as the
temporary tensors of so many layers, and a constant, by three measurements of Gemma 3 270M (docs/fit.md)."""
_LINEAR_BYTES = {"nf4": 0.516, "int8": 1.0}
"""Per weight of the decoder's linear layers (docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A model without weights; of the multimodal class `model` has no vision tower, as in training."""

    model: PreTrainedModel
    parameters: int
    """Of the files, the vision tower's included."""
    trained: int
    """Those in memory during training."""
    decoder_linear: int
    """Parameters of the decoder's linear layers, which a quantization applies to."""


def read_structure(folder: Path) -> Structure:
    """The model that a directory's `config.json` describes.

    Raises:
        ModelError: it describes no Gemma 3 model.
    """
    model = build_meta_model(folder)
    linear = sum(cast(nn.Linear, model.get_submodule(name)).weight.numel() for name in decoder_linears(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    drop_vision_tower(model)
    return Structure(model, parameters, sum(parameter.numel() for parameter in model.parameters()), linear)


def lora_parameters(structure: Structure, config: ChainConfig) -> int:
    """Parameters of a new LoRA: rank times (inputs + outputs) of each target.

    Raises:
        AdapterError: a target matches no linear layer.
    """
    names = language_model_targets(structure.model, config.lora.target_modules)
    layers = [cast(nn.Linear, structure.model.get_submodule(name)) for name in names]
    return sum(config.lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def base_bytes(structure: Structure, quantization: Quantization, dtype: torch.dtype) -> int:
    """Of the base in memory."""
    plain = structure.trained * dtype.itemsize
    if quantization == "none":
        return plain
    saved = dtype.itemsize - _LINEAR_BYTES[quantization]
    return plain - int(structure.decoder_linear * saved)


def largest_micro_batch(config: ChainConfig, stage: Stage, *, packed: bool) -> int:
    """Tokens of the largest forward pass that the settings of a stage allow; `packed`: without padding, as on CUDA."""
    settings, most = stage_config(config, stage), config.training.micro_batch_tokens
    longest = settings.max_length
    return min(settings.batch_size * longest, max(longest, most if packed else most // longest * longest))


def stage_memory(
    structure: Structure, config: ChainConfig, stage: Stage, *, device_type: str, capacity: int | None
) -> StageMemory:
    """What a stage needs at most.

    Args:
        capacity: bytes of the device, which decide for `gradient_checkpointing = "auto"`; None: as without it.
    """
    tokens, dtype = largest_micro_batch(config, stage, packed=device_type == "cuda"), dtype_of(config)
    if structure.model.dtype != dtype:
        cast(nn.Module, structure.model).to(dtype)  # on the meta device only the type changes
    kept = activation_bytes(structure.model, tokens)
    base = base_bytes(structure, config.quantization, dtype)
    lora = lora_parameters(structure, config) * _LORA_TRAINING_BYTES
    recompute = config.training.gradient_checkpointing
    if recompute == "auto":
        recompute = capacity is not None and kept > 0.85 * (capacity - base)
    text: Any = text_decoder(structure.model).config
    if recompute:
        kept = recomputed_bytes(structure.model, tokens) + layer_bytes(structure.model, tokens)
    supervises_all = stage.source == "plain_text"
    layer = _layer_working_bytes(text, tokens, dtype)
    working = max(layer, _loss_working_bytes(text, tokens if supervises_all else tokens // 4, dtype, device_type))
    if device_type == "cpu":
        working += _CPU_PROCESS_BYTES + int((_CPU_LAYERS - 1) * layer)
    return StageMemory(
        stage=stage.name,
        tokens=tokens,
        recomputation=bool(recompute),
        base=base,
        lora=lora,
        activations=kept,
        working=working,
    )


def _layer_working_bytes(text: Any, tokens: int, dtype: torch.dtype) -> int:
    """Of one layer's backward pass: of the MLP the product, its gradient and those of both halves, and a norm's input,
    gradient and result in float32."""
    return int(tokens * (4 * text.intermediate_size * dtype.itemsize + 3 * text.hidden_size * 4))


def _loss_working_bytes(text: Any, rows: int, dtype: torch.dtype, device_type: str) -> int:
    """Of the loss of `rows` supervised tokens: their states and gradients, and a block of logits and exponentials."""
    block = ROW_BLOCK * VOCABULARY_BLOCK.get(device_type, 65_536) * (2 * dtype.itemsize + 4)
    return int(2 * rows * text.hidden_size * dtype.itemsize + block)
