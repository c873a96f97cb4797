"""Which folders a stage stands on: the base's weights, and the adapter that it goes on from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorachain.chain.context import ChainContext
from lorachain.errors import WorkspaceError
from lorachain.provenance import TRAINING_INFO, read_json
from lorachain.registry import weights_folder
from lorachain.weights.lora import check_adapter_files
from lorachain.weights.lora_file import adapter_sha256
from lorachain.workspace import StageName, restore_folder


@dataclass(frozen=True, slots=True)
class Parent:
    """A stage's start: an adapter's folder and the base that it sits on."""

    folder: Path
    base: Path
    info: dict[str, Any]

    def identity(self) -> dict[str, str]:
        """Hashes of what the stage starts from, read from the files."""
        return {
            "folder": f"{self.folder.parent.name}/{self.folder.name}",
            "adapter_sha256": adapter_sha256(self.folder),
            "base_sha256": self.info["base_sha256"],
        }


def parent_folder(context: ChainContext, stage: StageName, from_base: bool = False) -> Path:
    """Where the stage's parent lies. `from_base` puts the stage straight on raw_lora_added (for ablations)."""
    workspace, model = context.workspace, context.model
    if from_base or stage == "00":
        return workspace.raw_lora_added(model)
    return workspace.trained("00", model) if stage == "01" else workspace.another_lora_added(model)


def find_parent(context: ChainContext, stage: StageName, from_base: bool = False) -> Parent:
    """The stage's parent, whole.

    Raises:
        WorkspaceError: it has not been made; names the command that makes it.
        ModelError: the base's weights cannot be had.
        AdapterError: its adapter's files are broken.
    """
    folder = parent_folder(context, stage, from_base)
    restore_folder(folder)
    if not (folder / TRAINING_INFO).is_file():
        maker = {"00": "init", "01": "train 00", "02": "train 01"}[stage] if not from_base else "init"
        raise WorkspaceError(
            f"stage {stage} starts from {folder}, which is missing; make it with: {context.command(maker)}"
        )
    merged = context.workspace.merged_base(context.model)
    base = merged if folder == merged.parent else weights_folder(context.entry)
    check_adapter_files(folder)
    info = read_json(folder / TRAINING_INFO)
    if not isinstance(info, dict) or not {"base", "base_sha256"} <= info.keys():
        raise WorkspaceError(f"{folder / TRAINING_INFO} is not as lorachain writes it; make its stage again")
    return Parent(folder, base, info)
