"""A model on the CPU is the pages of its files, which all processes of a machine share."""

import re
import sys
from pathlib import Path

import pytest
import torch

from lora_making import save_zeros
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
    save_zeros(tmp_path, hidden_size=512, intermediate_size=32768, num_hidden_layers=1)
    assert (tmp_path / "model.safetensors").stat().st_size > MEGABYTES * 2**20

    before = anonymous_megabytes()
    mapped = load_model(tmp_path, torch.device("cpu"), torch.bfloat16)
    own = anonymous_megabytes() - before
    converted = load_model(tmp_path, torch.device("cpu"), torch.float32)
    assert own < MEGABYTES / 4
    assert anonymous_megabytes() - before - own > 1.5 * MEGABYTES  # the measure sees what is not mapped
    assert (mapped.dtype, converted.dtype) == (torch.bfloat16, torch.float32)
