"""FSDP2: each process holds a part of the frozen weights of the decoder's layers.

`torch.distributed.fsdp.fully_shard` gathers a layer before it runs and frees it afterwards. What is small or read by
itself is replicated: the LoRA with its float32 masters, the embeddings that are also the head, and the norms outside
the layers. So the optimizer and the checkpoints are those of DDP, and a run can be resumed with either. Trainer treats
such a model as "sharded at load time" and wraps nothing. accelerate's own FSDP2 would shard the LoRA too, and has no
optimizer with masters.
"""

import os
from typing import Any

import torch
from torch import nn

from lorachain.errors import ConfigError
from lorachain.weights.load import text_decoder


def take_sharding_request() -> bool:
    """Whether the launcher requests sharding (`accelerate launch --use_fsdp --fsdp_version 2`).

    Removes the request from the environment, or accelerate would shard the model its own way.

    Raises:
        ConfigError: it requests a kind of sharding that lorachain does not support.
    """
    for variable in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if _is_set(variable):
            raise ConfigError(
                f"{variable} is set; lorachain shards with FSDP2 only. Launch with --use_fsdp --fsdp_version 2, or "
                "without sharding"
            )
    if not _is_set("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"FSDP_VERSION is {version!r}; allowed: 2. Launch with --use_fsdp --fsdp_version 2")
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        raise ConfigError("FSDP_OFFLOAD_PARAMS is set; lorachain does not offload. Launch without it")
    del os.environ["ACCELERATE_USE_FSDP"]
    return True


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def shard_layers(model: nn.Module, device: torch.device) -> None:
    """Moves the model to `device`, of each decoder layer only this process's part of the frozen weights.

    The layers are moved one at a time, so that a model on the CPU may be larger than the device. Afterwards the model
    computes only while all processes do.
    """
    # Imported here: half a second that every other command would pay, `lorachain ask` too.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    decoder: Any = text_decoder(model)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in decoder.layers:
        layer.to(device)
        fully_shard(layer, mesh=mesh, ignored_params={p for p in layer.parameters() if p.requires_grad})
    replicated = {p for p in decoder.parameters() if not isinstance(p, DTensor)}
    fully_shard(decoder, mesh=mesh, ignored_params=replicated)
    model.to(device)
