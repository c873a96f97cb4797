"""Bases and adapters that look trained, on disk, made with plain transformers and peft."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3ForCausalLM, PreTrainedModel

from conftest import make_multimodal_model, make_text_model, make_tokenizer, text_config

LANGUAGE_LINEAR = r".*(language_model|model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
ATTENTION = r".*(language_model|model)\.layers\.\d+\.self_attn\.[qv]_proj"
IDS = torch.tensor([[2, 70, 101, 33, 8, 300, 261, 45, 90]])


def save_zeros(folder: Path, **overrides: Any) -> None:
    """A text base of one layer in bf16 whose weights are zeros: for what depends on sizes alone."""
    config = text_config(**overrides, layer_types=["full_attention"])
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Gemma3ForCausalLM(config).state_dict().items()}
    del shapes["lm_head.weight"]  # tied to the embeddings
    zeros = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})


def save_base(
    folder: Path, kind: str, *, dtype: torch.dtype = torch.bfloat16, shard: str = "5GB", **config: object
) -> Path:
    model = make_text_model(0, dtype, **config) if kind == "text" else make_multimodal_model(0, dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    make_tokenizer(chat=True).save_pretrained(folder)
    return folder


def load_plain(folder: Path, kind: str, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    auto = AutoModelForCausalLM if kind == "text" else AutoModelForImageTextToText
    model: PreTrainedModel = auto.from_pretrained(folder, dtype=dtype)
    model.train(False)
    return model


def save_adapter_for(
    base: Path, folder: Path, kind: str, *, seed: int = 7, scale_b: float = 0.05, **config: Any
) -> Path:
    """A LoRA on `base` with B far from zero, written by PEFT itself."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, **config}
    model = get_peft_model(load_plain(base, kind), LoraConfig(**settings), autocast_adapter_dtype=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale_b)
    model.save_pretrained(str(folder))
    return folder


def peft_merged(base: Path, adapter: Path, kind: str) -> PreTrainedModel:
    """PEFT's own merge_and_unload."""
    merged: PreTrainedModel = PeftModel.from_pretrained(load_plain(base, kind), str(adapter)).merge_and_unload()
    return merged


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    result: Tensor = model(input_ids=IDS).logits.float()
    return result


def edit_tensors(file: Path, **changes: Any) -> None:
    """Rewrites a safetensors file: a callable changes a tensor, None removes it, a string renames it."""
    tensors = load_file(file)
    for name, change in changes.items():
        key = next(k for k in tensors if name in k)
        if change is None:
            del tensors[key]
        elif isinstance(change, str):
            tensors[change] = tensors.pop(key)
        else:
            tensors[key] = change(tensors[key])
    save_file(tensors, file, metadata={"format": "pt"})
