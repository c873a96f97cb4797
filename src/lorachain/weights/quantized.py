"""A base held in 4 or 8 bits while a LoRA is trained on it (QLoRA: Dettmers et al. 2023, arXiv 2305.14314).

The decoder's linear layers are quantized. Embeddings and head share one weight and keep their type, and so does the
vision tower. bitsandbytes quantizes while the original weights are loaded; quantized weights are never written.
"""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from lorachain.artifacts import TrainingInfo, read_stage_info
from lorachain.config import Quantization
from lorachain.errors import ConfigError
from lorachain.workspace import TRAINING_INFO

_NF4: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}


def require_quantizer(quantization: Quantization) -> None:
    """Raises ConfigError where a quantization is requested and bitsandbytes is not installed."""
    if quantization != "none" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization is {quantization!r}, which needs the package bitsandbytes; install it with "
            "`pip install 'lorachain[quantized]'`, or set quantization to 'none'"
        )


def quantized_loading(quantization: Quantization, dtype: torch.dtype, kept: Iterable[str]) -> BitsAndBytesConfig:
    """How transformers should load a base: without quantizing the linear layers in `kept`, computing in `dtype`.

    `nf4`: 4-bit NormalFloat in blocks of 64, their scales quantized again (QLoRA, section 3). `int8`: LLM.int8()
    (Dettmers et al. 2022, arXiv 2208.07339).

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    require_quantizer(quantization)
    # Otherwise every product logs that LLM.int8() computes in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=quantization == "nf4",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type=_NF4["quant_type"],
        bnb_4bit_use_double_quant=_NF4["compress_statistics"],
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=sorted(kept),  # of both
    )


def keep_one_layout(model: nn.Module) -> None:
    """Stops bitsandbytes 0.50 from repacking 4-bit weights in the first evaluation on a CPU with AVX512-BF16.

    Packed weights have coarser scales (bfloat16), their product passes no gradient (in training after a validation the
    layers below would not learn, and torch only warns), and a layer whose width is not a multiple of 32 fails.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def dequantized(weight: Tensor, quantization: Quantization) -> Tensor:
    """What a layer multiplies by if `weight` (out, in) is loaded quantized: quantized and back, in the same type."""
    from bitsandbytes import functional

    if quantization == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        return cast(Tensor, functional.int8_vectorwise_dequant(codes, scales).to(weight.dtype))
    codes, state = functional.quantize_4bit(weight, **_NF4)
    return cast(Tensor, functional.dequantize_4bit(codes, state))


def trained_in(adapter: Path) -> Quantization:
    """What the base was held in while a lorachain adapter was trained; `none` for a new one or one from elsewhere.

    Raises:
        WorkspaceError: training_info.json is not valid.
    """
    if not (adapter / TRAINING_INFO).is_file():
        return "none"
    info = read_stage_info(adapter)
    return info.depends_on.settings.quantization if isinstance(info, TrainingInfo) else "none"
