"""What `lorachain eval` scores: a stage of a chain, a directory with a model or an adapter, or a hub id."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lorachain.artifacts import read_stage_info
from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import chain_stages
from lorachain.config import Quantization
from lorachain.errors import AdapterError, ModelError, WorkspaceError
from lorachain.inference.engines.select import EngineModel
from lorachain.provenance import ADAPTER_CONFIG, adapter_sha256
from lorachain.registry import hub_weights, is_hub_id, local_weights, read_entries, weights_folder
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_model, load_tokenizer
from lorachain.weights.lora import load_adapter, read_adapter_config
from lorachain.weights.quantized import trained_in
from lorachain.weights.safetensors_io import weights_sha256
from lorachain.workspace import TRAINING_INFO


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A base, and the adapter on it where there is one."""

    name: str
    base: Path
    adapter: Path | None

    def identity(self) -> ScoredModelIdentity:
        """Name and hashes, as a result records them.

        Raises:
            AdapterError: the adapter was trained on another base.
        """
        base_hash = weights_sha256(self.base)
        if self.adapter is not None and (self.adapter / TRAINING_INFO).is_file():
            trained_on = read_stage_info(self.adapter).base_sha256
            if trained_on != base_hash:
                raise AdapterError(
                    f"{self.adapter} was trained on a base with the hash {trained_on[:12]}…, {self.base} has "
                    f"{base_hash[:12]}…; score it on the base that it was trained on"
                )
        return ScoredModelIdentity(
            name=self.name,
            base_sha256=base_hash,
            adapter_sha256=adapter_sha256(self.adapter) if self.adapter else None,
            quantization=self.quantization,
        )

    @property
    def quantization(self) -> Quantization:
        """An adapter is scored on its base held as in training, where its validations were measured."""
        return trained_in(self.adapter) if self.adapter else "none"

    def for_engine(self) -> EngineModel:
        """The model as the engines that run here take it.

        Raises:
            AdapterError: the adapter was trained on another base.
        """
        identity = self.identity()
        return EngineModel(
            name=self.name,
            base=self.base,
            adapter=self.adapter,
            quantization=identity.quantization,
            base_sha256=str(identity.base_sha256),
            adapter_sha256=identity.adapter_sha256,
            load=self.load,
        )

    def load(self, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, TokenEncoder]:
        model = load_model(self.base, device, dtype, self.quantization)
        encoder = TokenEncoder(load_tokenizer(self.base))
        return (load_adapter(model, self.adapter, trainable=False) if self.adapter else model), encoder


def find_scored_model(context: ChainContext, name: str) -> ScoredModel:
    """`context.model`'s base for `base`, a stage of its chain by name, a directory, or a hub id.

    Raises:
        ModelError: it is none of these, or a directory without a model. AdapterError: its base cannot be found.
    """
    if name == "base":
        return ScoredModel(context.model, weights_folder(context.entry, context.reporter.message), None)
    stage = next((stage for stage in chain_stages() if stage.name == name), None)
    if stage is not None:
        folder = context.output(stage)
        if not (folder / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{folder} is missing; create it with: {context.command('run')}")
        return _adapter_on_its_base(context, folder, f"{context.model}:{stage.name}")
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        if (folder / ADAPTER_CONFIG).is_file():
            return _adapter_on_its_base(context, folder, folder.name)
        return ScoredModel(folder.name, folder, None)
    if is_hub_id(name):
        return ScoredModel(name, hub_weights(name, None), None)
    allowed = ", ".join(stage.name for stage in chain_stages())
    raise ModelError(
        f"{name!r} is not a model that can be scored; allowed: base, a stage of the chain ({allowed}), a directory "
        "with a model or an adapter, or a hub id (owner/name)"
    )


def _adapter_on_its_base(context: ChainContext, folder: Path, name: str) -> ScoredModel:
    base = str(read_adapter_config(folder).get("base_model_name_or_path") or "")
    if Path(base).is_dir():
        return ScoredModel(name, local_weights(Path(base), context.reporter.message), folder)
    entry = read_entries(context.workspace).get(base)
    if entry is not None:  # as a composed adapter names a base that has no hub id
        return ScoredModel(name, weights_folder(entry, context.reporter.message), folder)
    if not is_hub_id(base):
        raise AdapterError(
            f"{folder} names {base!r} as its base, which is not there; restore it, or write its current location as "
            f"base_model_name_or_path into {folder / ADAPTER_CONFIG}"
        )
    return ScoredModel(name, hub_weights(base, None), folder)
