"""The merge's memory does not grow with the model, nor with a tensor."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_making import save_adapter_for, save_zeros
from lorachain.weights import blockwise
from lorachain.weights.merge import merge_adapter

BIG = {"hidden_size": 512, "intermediate_size": 65536, "vocab_size": 384, "num_hidden_layers": 1}
TENSOR = 64
"""MB of each of the layer's three matrices."""


def megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in status if line.startswith(field)).split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_peak_memory_is_a_few_blocks_neither_the_model_nor_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_MAX_WORKERS", 2)  # memory is in proportion to them
    base = tmp_path / "base"
    save_zeros(base, **BIG)
    names = ["gate_proj", "up_proj"]  # 2,048 rows a block; of down_proj, 256 rows of such a width would be half of it
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", r=2, target_modules=names)
    assert (base / "model.safetensors").stat().st_size > 3 * TENSOR * 2**20

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is resident now
    before = megabytes("VmRSS")
    report = merge_adapter(base, adapter, tmp_path / "merged")
    peak = megabytes("VmHWM") - before
    assert peak < TENSOR

    # What was written is the adapter's update, in the first, a middle and the last block of each matrix.
    factors = load_file(adapter / "adapter_model.safetensors")
    assert {target.module.rpartition(".")[2] for target in report.targets} == set(names)
    with safe_open(tmp_path / "merged" / "model.safetensors", framework="pt") as merged:
        for target in report.targets:
            a, b = (factors[f"base_model.model.{target.module}.lora_{side}.weight"] for side in "AB")
            rows = merged.get_slice(target.tensor)
            for start in (0, target.shape[0] // 2, target.shape[0] - 3):
                written = rows[start : start + 3].float()
                expected = 4.0 * (b[start : start + 3] @ a)  # alpha / rank = 8 / 2
                torch.testing.assert_close(written, expected, rtol=2**-8, atol=1e-7)
                assert written.any()
