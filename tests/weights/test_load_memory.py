"""A model on the CPU is the pages of its files, which all processes of a machine share."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM

from conftest import text_config
from lorachain.weights.load import load_model

MEGABYTES = 96
"""Of the layer's three matrices in bf16."""


def anonymous_megabytes() -> float:
    """Memory of this process that is no file's: what a second process would need too."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads anonymous memory from /proc")
def test_weights_of_the_files_type_take_no_memory_of_their_own(tmp_path: Path) -> None:
    config = text_config(hidden_size=512, intermediate_size=32768, num_hidden_layers=1, layer_types=["full_attention"])
    config.dtype = torch.bfloat16
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Gemma3ForCausalLM(config).state_dict().items()}
    tensors = {
        name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items() if name != "lm_head.weight"
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    del tensors
    assert (tmp_path / "model.safetensors").stat().st_size > MEGABYTES * 2**20

    before = anonymous_megabytes()
    mapped = load_model(tmp_path, torch.device("cpu"), torch.bfloat16)
    own = anonymous_megabytes() - before
    converted = load_model(tmp_path, torch.device("cpu"), torch.float32)
    assert own < MEGABYTES / 4
    assert anonymous_megabytes() - before - own > 1.5 * MEGABYTES  # the measure sees what is not mapped
    assert (mapped.dtype, converted.dtype) == (torch.bfloat16, torch.float32)
