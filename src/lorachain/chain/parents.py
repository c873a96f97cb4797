"""What a stage starts from: an adapter, and the base that it was made for."""

from dataclasses import dataclass
from pathlib import Path

from lorachain.artifacts import StageInfo, TrainingInfo, read_stage_info
from lorachain.atomic import restore_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, parent_of, stage_of_output
from lorachain.errors import WorkspaceError
from lorachain.provenance import adapter_sha256
from lorachain.registry import weights_folder
from lorachain.workspace import TRAINING_INFO, merged_base


@dataclass(frozen=True, slots=True)
class Parent:
    """A stage's start: an adapter's directory and its base."""

    folder: Path
    base: Path
    info: StageInfo

    def identity(self) -> dict[str, str]:
        """Hashes of what the stage starts from, read from the files."""
        return {
            "folder": f"{self.folder.parent.name}/{self.folder.name}",
            "adapter_sha256": adapter_sha256(self.folder),
            "base_sha256": self.info.base_sha256,
        }


def find_parent(context: ChainContext, stage: Stage) -> Parent:
    """The parent of `stage`, complete.

    Raises:
        WorkspaceError: it has not been made; names the command that makes it.
        ModelError: the base's weights cannot be had.
    """
    parent = parent_of(stage)
    folder = context.output(parent)
    restore_folder(folder)
    if not (folder / TRAINING_INFO).is_file():
        raise WorkspaceError(
            f"stage {stage.name} starts from {folder}, which is missing; create it with: "
            f"{context.command(parent.command)}"
        )
    info = read_stage_info(folder)
    return Parent(folder, base_of(context, parent, info), info)


def base_of(context: ChainContext, stage: Stage, info: StageInfo) -> Path:
    """The weights that a stage's adapter was made for.

    A training stage has its parent's base, so this follows the parents that the files record.

    Raises:
        ModelError: the public base's weights cannot be had. WorkspaceError: a parent's file is damaged.
    """
    if stage.kind == "merge":
        return merged_base(context.output(stage))
    if not isinstance(info, TrainingInfo):
        return weights_folder(context.entry, context.reporter.message)
    parent = stage_of_output(info.depends_on.parent.folder.partition("/")[0])
    return base_of(context, parent, read_stage_info(context.output(parent)))
