"""The base that all contenders train: a directory, or random weights in the shape of MedGemma's language models."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

from lorachain.weights.load import load_model
from lorachain.weights.quantized import keep_one_layout, require_quantizer

SHAPES: dict[str, dict[str, Any]] = {
    # The language model of google/medgemma-4b-it; training does not run its vision tower.
    "medgemma-4b": {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 1024,
        "vocab_size": 262208,
    },
    # google/medgemma-27b-text-it
    "medgemma-27b": {
        "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 168, "sliding_window": 1024,
        "vocab_size": 262208,
    },
    # For trying random weights on a CPU; the vocabulary covers the ids of the embedded tokenizer.
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64,
        "vocab_size": 262144,
    },
}  # fmt: skip


def load_base(source: str, device: torch.device, *, nf4: bool) -> PreTrainedModel:
    """The base in `source`: a directory, or a name of SHAPES.

    Raises:
        ModelError: the directory is not a model.
        ConfigError: 4-bit weights are requested and bitsandbytes is not installed.
    """
    if source in SHAPES:
        return random_model(SHAPES[source], device, nf4=nf4)
    model = load_model(Path(source), device, quantization="nf4" if nf4 else "none")
    model.set_attn_implementation("sdpa")  # the default of transformers, which the peers use too
    return model


def random_model(shape: dict[str, Any], device: torch.device, *, nf4: bool) -> PreTrainedModel:
    """Random weights, created layer by layer on the device, so that 27B in NF4 is never there in bf16."""
    config = Gemma3TextConfig(**shape, dtype="bfloat16")
    config._attn_implementation = "sdpa"
    empty = copy.deepcopy(config)
    empty.num_hidden_layers = 0
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Gemma3ForCausalLM(empty)
            for index in range(config.num_hidden_layers):
                layer = Gemma3DecoderLayer(config, index)
                for module in layer.modules():
                    if isinstance(module, nn.Linear):
                        nn.init.normal_(module.weight, std=0.02)
                model.model.layers.append(_in_nf4(layer, device) if nf4 else layer)
    finally:
        torch.set_default_dtype(torch.float32)
    model.config = model.model.config = config
    if nf4:
        keep_one_layout(model)
        model.is_loaded_in_4bit = True  # PEFT checks it before it wraps a 4-bit layer
    return model.requires_grad_(False).eval()


def _in_nf4(layer: nn.Module, device: torch.device) -> nn.Module:
    require_quantizer("nf4")
    import bitsandbytes as bnb

    linear = [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    for name, module in linear:
        packed = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        packed.weight = bnb.nn.Params4bit(module.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        layer.set_submodule(name, packed.to(device))  # moving to the device packs the weight
    return layer
