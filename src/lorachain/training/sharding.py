"""FSDP2: the frozen weights of the decoder's layers lie in parts, one part a process.

`torch.distributed.fsdp.fully_shard` gathers a layer when it runs and gives it up afterwards. What is small, or read by
itself, stays whole everywhere: the LoRA with its float32 masters (so the optimizer and checkpoints are those of DDP,
and a run may go on either way), the embeddings that are the head, the norms outside the layers, the vision tower.
Trainer knows this arrangement as a model "sharded at load time": it wraps nothing and averages the gradients of the
replicated LoRA. accelerate's own FSDP2 would shard the LoRA as well, and knows no optimizer with masters.
"""

import os
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lorachain.errors import ConfigError
from lorachain.weights.load import plain_model, text_decoder


def sharding_wanted() -> bool:
    """Whether the launcher was told to shard the model (`accelerate launch --use_fsdp --fsdp_version 2`).

    Takes the request out of the environment: accelerate would answer it in its own way.

    Raises:
        ConfigError: it was told to in a way that lorachain does not know.
    """
    for variable in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if _set(variable):
            raise ConfigError(f"{variable} is set; lorachain shards with FSDP2 (--use_fsdp --fsdp_version 2) or not")
    if not _set("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"FSDP_VERSION is {version!r}; allowed: 2. Launch with --use_fsdp --fsdp_version 2")
    if _set("FSDP_OFFLOAD_PARAMS"):
        raise ConfigError("FSDP_OFFLOAD_PARAMS is set; lorachain does not offload. Launch without it")
    del os.environ["ACCELERATE_USE_FSDP"]
    return True


def _set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def shard_layers(model: nn.Module) -> None:
    """Leaves this process its part of each decoder layer's frozen weights. The model then computes only while all
    processes do."""
    decoder: Any = text_decoder(model)
    mesh = init_device_mesh(plain_model(model).device.type, (torch.distributed.get_world_size(),))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params={p for p in layer.parameters() if p.requires_grad})
    whole = {p for p in decoder.parameters() if not isinstance(p, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
