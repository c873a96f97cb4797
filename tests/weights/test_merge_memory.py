"""The merge's memory does not grow with the model."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM

from conftest import text_config
from lora_making import save_adapter_for
from lorachain.weights.merge import merge_adapter

BIG = {"hidden_size": 512, "intermediate_size": 16384, "vocab_size": 65536, "num_hidden_layers": 4}


def megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in status if line.startswith(field)).split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_peak_memory_is_a_few_blocks_not_the_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    config = text_config(**BIG, layer_types=["sliding_attention", "full_attention"] * 2)
    config.dtype = torch.bfloat16
    config.save_pretrained(base)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Gemma3ForCausalLM(config).state_dict().items()}
    zeros = {
        name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items() if name != "lm_head.weight"
    }
    save_file(zeros, base / "model.safetensors", metadata={"format": "pt"})
    del zeros
    names = ["gate_proj", "up_proj", "down_proj"]
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", r=2, target_modules=names)
    size = (base / "model.safetensors").stat().st_size / 2**20
    assert size > 250

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = megabytes("VmRSS")
    merge_adapter(base, adapter, tmp_path / "merged")
    assert megabytes("VmHWM") - before < size / 2
