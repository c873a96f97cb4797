"""What init and merge depend on."""

from lorachain.artifacts.stages import InitInputs, LoraIdentity, MergeInputs, ModelIdentity, ParentIdentity
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, parent_of
from lorachain.config import LoraSettings
from lorachain.provenance import adapter_sha256
from lorachain.registry import ModelEntry


def init_inputs(entry: ModelEntry, lora: LoraSettings, seed: int) -> InitInputs:
    """What an init depends on."""
    model = entry.model_dump(mode="json", include=set(ModelIdentity.model_fields))
    return InitInputs(model=ModelIdentity(**model), lora=_lora_identity(lora), seed=seed)


def merge_inputs(context: ChainContext, stage: Stage) -> MergeInputs:
    """What a merge depends on.

    Raises:
        AdapterError: the parent's adapter cannot be read.
    """
    parent = parent_of(stage)
    return MergeInputs(
        parent=ParentIdentity(
            folder=f"{parent.output}/{context.model}", adapter_sha256=adapter_sha256(context.output(parent))
        ),
        lora=_lora_identity(context.config.lora),
        seed=context.config.seed,
    )


def _lora_identity(lora: LoraSettings) -> LoraIdentity:
    settings = lora.resolved()
    return LoraIdentity(**settings | {"target_modules": tuple(settings["target_modules"])})
