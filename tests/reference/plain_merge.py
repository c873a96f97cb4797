"""A LoRA merged into its base, from the definition alone: W' = round(W + scale * B A), element by element.

LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1) has scale = alpha / r, rsLoRA (arXiv 2312.03732) alpha / sqrt(r).
All arithmetic is exact (fractions), so that the only rounding is that of the stored type. Nothing here imports
lorachain.
"""

import json
import math
from fractions import Fraction
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

PREFIX = "base_model.model."  # PEFT's, before the name of the module
MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
SMALLEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14, torch.float32: -126}


def scale_of(alpha: float, rank: int, *, rslora: bool) -> float:
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def read_adapter(folder: Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """(A, B, scale) by module, of an adapter in the format of PEFT."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    factors = {}
    for module in sorted({name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}):
        a, b = (tensors[f"{PREFIX}{module}.lora_{side}.weight"].float() for side in "AB")
        rank, alpha = (
            config[pattern].get(get_pattern_key(config[pattern], module), config[default])
            for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
        )
        factors[module] = a, b, scale_of(alpha, rank, rslora=config["use_rslora"])
    return factors


def exact_update(a: Tensor, b: Tensor, scale: float) -> list[list[Fraction]]:
    """scale * B A as (out, in) rational numbers; `a` (r, in), `b` (out, r)."""
    columns = [[Fraction(value) for value in column] for column in a.T.tolist()]
    rows = [[Fraction(value) for value in row] for row in b.tolist()]
    return [
        [Fraction(scale) * sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in columns]
        for row in rows
    ]


def half_ulp(value: float, dtype: torch.dtype) -> Fraction:
    """Half the distance from a number of the type to the next larger magnitude: 2^(exponent - mantissa bits) / 2."""
    exponent = SMALLEST_EXPONENT[dtype]
    if value:
        exponent = max(exponent, math.frexp(value)[1] - 1)
    return Fraction(2) ** (exponent - MANTISSA_BITS[dtype] - 1)


def roundings(merged: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> list[list[float]]:
    """|merged - (W + scale * B A)| in half-ulps of each merged number: one rounding to the nearest is at most 1."""
    update = exact_update(a, b, scale)
    return [
        [
            float(abs(Fraction(new) - (Fraction(old) + delta)) / half_ulp(new, merged.dtype))
            for new, old, delta in zip(*rows, strict=True)
        ]
        for rows in zip(merged.tolist(), weight.tolist(), update, strict=True)
    ]
