"""The weights that an adapter's updates are added to: the base's own, or those that its quantized copy stood for."""

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
"""A tensor of the base to where the values to merge into are stored."""


@contextmanager
def merge_sources(names: ParameterNames, quantization: Quantization, weights: MergeWeights) -> Iterator[MergeSource]:
    """Where the values that updates are added to are stored: the tensor itself, or its dequantized copy.

    The copy is in a temporary file that holds one tensor at a time: use it before requesting the next. It is computed
    on the CPU, whatever device trained.

    Raises:
        ConfigError: dequantized weights are requested where nothing was quantized, or bitsandbytes is not installed.
    """
    if weights == "original":
        yield lambda tensor: tensor
        return
    if quantization == "none":
        raise ConfigError(
            "--weights is dequantized, but the base was not quantized when the adapter was trained; merge into the "
            "original weights, or set --quantization to what the base was held in (nf4, int8)"
        )
    require_quantizer(quantization)
    quantized = {names.stored[f"{name}.weight"] for name in decoder_linears(names.model)}
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "weight"

        def source_of(tensor: StoredTensor) -> StoredTensor:
            if tensor.name not in quantized:
                return tensor
            weight = dequantized(read_tensor(tensor), quantization).contiguous()
            file.write_bytes(weight.view(torch.uint8).numpy().data)
            return replace(tensor, file=file, start=0)

        yield source_of
