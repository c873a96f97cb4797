"""How a model's modules are called in memory, in its files and in adapters: asked of the model itself.

medgemma-4b's files say `language_model.model.layers…`, the model in memory `model.language_model.layers…`, the
text-only class `model.layers…`, older adapters any of them. Here the class is built without weights and transformers'
own renaming, the one `from_pretrained` uses, says which is which.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lorachain.errors import ModelError
from lorachain.weights.load import skeleton
from lorachain.weights.safetensors_io import Shards


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """A model without weights, and the names of its parameters in a folder's files."""

    shards: Shards
    model: PreTrainedModel
    """On the meta device: structure only."""
    stored: dict[str, str]
    """Parameter in memory -> key in the files."""
    tied: frozenset[str]
    """Parameters that share their numbers with another (head and embeddings)."""

    rename: Callable[[str], str | None]
    """A file's key -> parameter in memory, None where the model has none of that name."""

    def module_name(self, name: str) -> str | None:
        """The module's name in memory, from the name that an adapter or a file gives it; None if there is none."""
        parameter = self.rename(f"{name}.weight")
        return parameter.removesuffix(".weight") if parameter else None

    def module(self, name: str) -> nn.Module:
        return self.model.get_submodule(name)

    def names_of(self, module: str) -> list[str]:
        """What patterns in an adapter's configuration may call a module: its name in memory, and in the files."""
        stored = self.stored.get(f"{module}.weight")
        return [module, *([stored.removesuffix(".weight")] if stored else [])]


def read_parameter_names(shards: Shards) -> ParameterNames:
    """The structure that a folder's `config.json` describes, matched with the tensors of its files.

    Raises:
        ModelError: it is no Gemma 3, it is quantized, or tensors are missing, of another shape, or there twice.
    """
    model = skeleton(shards.folder)
    rename = _Renamer(model)
    parameters = rename.parameters
    stored: dict[str, str] = {}
    for key, tensor in shards.tensors.items():
        parameter = rename(key)
        if parameter is None:
            continue  # what the model does not know, transformers ignores: copied as it is
        if parameter in stored:
            raise ModelError(f"{shards.folder}: {key} and {stored[parameter]} are the same parameter {parameter}")
        if tensor.shape != tuple(parameters[parameter].shape):
            raise ModelError(
                f"{shards.folder}: {key} has shape {list(tensor.shape)}, config.json asks for "
                f"{list(parameters[parameter].shape)}; weights and configuration do not belong together"
            )
        stored[parameter] = key
    tied: dict[str, str] = model.all_tied_weights_keys
    missing = sorted(parameters.keys() - stored.keys() - tied.keys())
    if missing:
        raise ModelError(
            f"{shards.folder} lacks {len(missing)} of the model's tensors, first {missing[0]}; fetch the model again"
        )
    return ParameterNames(shards, model, stored, frozenset(tied) | frozenset(tied.values()), rename)


class _Renamer:
    """A file's key as a parameter of the model in memory, renamed as `from_pretrained` renames it."""

    def __init__(self, model: PreTrainedModel) -> None:
        conversions = get_model_conversion_mapping(model)
        self._renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
        self._converters = [c for c in conversions if isinstance(c, WeightConverter)]
        self._prefix = model.base_model_prefix
        self.parameters: dict[str, torch.Tensor] = model.state_dict()

    def __call__(self, key: str) -> str | None:
        name, converted = rename_source_key(key, self._renamings, self._converters, self._prefix, self.parameters)
        # A converted tensor is one of several that become a parameter: Gemma 3 has none, none could be merged into.
        return name if converted is None and name in self.parameters else None
