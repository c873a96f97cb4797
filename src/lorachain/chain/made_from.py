"""What init and merge depend on."""

from pathlib import Path

from lorachain.artifacts.stages import InitInputs, LoraIdentity, MergeInputs, ModelIdentity, ParentIdentity
from lorachain.chain.stages import Stage, parent_of
from lorachain.config import LoraSettings
from lorachain.provenance import adapter_sha256
from lorachain.registry import ModelEntry


def init_inputs(entry: ModelEntry, lora: LoraSettings, seed: int) -> InitInputs:
    """What an init depends on."""
    model = entry.model_dump(mode="json", include=set(ModelIdentity.model_fields))
    return InitInputs(model=ModelIdentity(**model), lora=_lora_identity(lora), seed=seed)


def merge_inputs(stage: Stage, parent_folder: Path, lora: LoraSettings, seed: int) -> MergeInputs:
    """What a merge of the adapter in `parent_folder` depends on.

    Raises:
        AdapterError: the parent's adapter cannot be read.
    """
    parent = parent_of(stage)
    return MergeInputs(
        parent=ParentIdentity(
            folder=f"{parent.output}/{parent_folder.name}", adapter_sha256=adapter_sha256(parent_folder)
        ),
        lora=_lora_identity(lora),
        seed=seed,
    )


def _lora_identity(lora: LoraSettings) -> LoraIdentity:
    settings = lora.resolved()
    return LoraIdentity(**settings | {"target_modules": tuple(settings["target_modules"])})
