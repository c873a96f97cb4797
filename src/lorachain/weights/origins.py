"""The numbers that an adapter's updates are added to: a base's own, or those that its quantised copy stood for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from lorachain.config import Quantization
from lorachain.errors import ConfigError
from lorachain.weights.layout import ModelLayout
from lorachain.weights.load import decoder_linears
from lorachain.weights.quantised import dequantised, require_quantiser
from lorachain.weights.shards import StoredTensor, read_tensor

MergeWeights = Literal["original", "dequantised"]
"""`original`: the base's files. `dequantised`: what training on a quantised base multiplied with."""

Origin = Callable[[StoredTensor], StoredTensor]
"""A tensor of the base to where its numbers lie."""


@contextmanager
def origins(layout: ModelLayout, quantization: Quantization, weights: MergeWeights) -> Iterator[Origin]:
    """Where the numbers lie that updates are added to: the tensor itself, or its de-quantised copy.

    The copy lies in a scratch file that holds one tensor at a time: use it before asking for the next. It is computed
    on the CPU, whatever trained.

    Raises:
        ConfigError: de-quantised weights are asked for where nothing was quantised, or bitsandbytes is not installed.
    """
    if weights == "original":
        yield lambda tensor: tensor
        return
    if quantization == "none":
        raise ConfigError(
            "de-quantised weights are asked for, but the base was not quantised when the adapter was trained; merge "
            "into the original weights, or say what the base was held in (nf4, int8)"
        )
    require_quantiser(quantization)
    quantised = {layout.stored[f"{name}.weight"] for name in decoder_linears(layout.model)}
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "weight"

        def origin(tensor: StoredTensor) -> StoredTensor:
            if tensor.name not in quantised:
                return tensor
            weight = dequantised(read_tensor(tensor), quantization).contiguous()
            file.write_bytes(weight.view(torch.uint8).numpy().data)
            return replace(tensor, file=file, start=0)

        yield origin
