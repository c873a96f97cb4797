"""The numbers that an adapter's updates are added to: a base's own, or those that its quantized copy stood for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lorachain.artifacts import MergeWeights
from lorachain.config import Quantization
from lorachain.errors import ConfigError
from lorachain.weights.load import decoder_linears
from lorachain.weights.parameter_names import ParameterNames
from lorachain.weights.quantized import dequantized, require_quantizer
from lorachain.weights.safetensors_io import StoredTensor, read_tensor

MergeSource = Callable[[StoredTensor], StoredTensor]
"""A tensor of the base to where its numbers lie."""


@contextmanager
def merge_sources(layout: ParameterNames, quantization: Quantization, weights: MergeWeights) -> Iterator[MergeSource]:
    """Where the numbers lie that updates are added to: the tensor itself, or its dequantized copy.

    The copy lies in a scratch file that holds one tensor at a time: use it before asking for the next. It is computed
    on the CPU, whatever trained.

    Raises:
        ConfigError: dequantized weights are asked for where nothing was quantized, or bitsandbytes is not installed.
    """
    if weights == "original":
        yield lambda tensor: tensor
        return
    if quantization == "none":
        raise ConfigError(
            "dequantized weights are asked for, but the base was not quantized when the adapter was trained; merge "
            "into the original weights, or say what the base was held in (nf4, int8)"
        )
    require_quantizer(quantization)
    quantized = {layout.stored[f"{name}.weight"] for name in decoder_linears(layout.model)}
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "weight"

        def source_of(tensor: StoredTensor) -> StoredTensor:
            if tensor.name not in quantized:
                return tensor
            weight = dequantized(read_tensor(tensor), quantization).contiguous()
            file.write_bytes(weight.view(torch.uint8).numpy().data)
            return replace(tensor, file=file, start=0)

        yield source_of
