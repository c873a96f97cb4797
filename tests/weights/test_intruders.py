"""Intruder dimensions: as many as PEFT finds by SVD, and those that were planted."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.intruders import reduce_intruder_dimension

from lora_making import load_plain, save_adapter_for
from lorachain.weights.intruders import count_intruders, intruder_dimensions, layer_number, left_singular_vectors

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_counts_are_those_of_peft(kind: str, save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny(kind, dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", kind, scale_b=0.5, target_modules=LINEAR)
    model = PeftModel.from_pretrained(load_plain(base, kind), str(adapter))
    printed: list[str] = []
    reduce_intruder_dimension(model, logging_sink=printed.append)  # type: ignore[no-untyped-call]
    expected = {}
    for line in printed:
        if match := re.fullmatch(r"base_model\.model\.(\S+): (?:No intruders|Intruders: (\d+))", line):
            expected[match[1]] = int(match[2] or 0)
    found = intruder_dimensions(base, adapter, layers=0)
    assert found == expected
    assert sum(found.values()) > 0


def test_a_planted_direction_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 60, generator=generator)
    assert count_intruders(weight, weight) == 0
    assert count_intruders(weight.T, weight.T) == 0
    # Between all singular vectors, and stronger than each of them.
    planted = left_singular_vectors(weight).sum(dim=1, keepdim=True) / 40**0.5
    right = torch.randn(1, 60, generator=generator).double()
    tuned = weight + 100 * planted @ (right / right.norm())
    assert count_intruders(weight, tuned) == 1
    scaled = weight * 3
    assert count_intruders(weight, scaled) == 0


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_singular_vectors_are_those_of_an_svd(shape: tuple[int, int]) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.linalg.svd(weight, full_matrices=False).U
    same = (left_singular_vectors(weight) * expected).sum(dim=0).abs()
    assert torch.allclose(same, torch.ones_like(same), atol=1e-9)


@pytest.mark.parametrize(
    ("layers", "expected"), [(0, {0, 1, 2, 3}), (1, {2}), (2, {0, 3}), (3, {0, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_layers_are_spread(layers: int, expected: set[int], save_tiny: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny("text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    found = intruder_dimensions(base, adapter, layers=layers)
    assert {layer_number(module) for module in found} == expected
