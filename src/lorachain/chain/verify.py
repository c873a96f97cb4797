"""Verifies every stage of a chain from its files: hashes, parents and merges."""

from collections.abc import Iterator

from lorachain.artifacts import MergeInfo, StageInfo, TrainingInfo, read_stage_info
from lorachain.chain.context import ChainContext
from lorachain.chain.stages import Stage, chain_stages, parent_of, stage_of_output
from lorachain.errors import WorkspaceError
from lorachain.provenance import adapter_sha256
from lorachain.registry import weights_folder
from lorachain.weights.safetensors_io import weights_sha256
from lorachain.weights.verify import verify_merge
from lorachain.workspace import TRAINING_INFO, merged_base


def verify_chain(context: ChainContext) -> Iterator[str]:
    """One message per stage that is there and verified, in the chain's order.

    Raises:
        WorkspaceError: names the first stage that does not match its files, or says that there is none.
        ModelError, AdapterError: a merge does not match its base and adapter.
    """
    base = weights_folder(context.entry, context.reporter.message)
    first = chain_stages()[0]
    bases, base_hashes = {first.name: base}, {first.name: weights_sha256(base)}
    """Per stage, the base that its adapter is for."""
    verified = 0
    for stage in chain_stages():
        folder = context.output(stage)
        if not (folder / TRAINING_INFO).is_file():
            continue
        info = read_stage_info(folder)
        if adapter_sha256(folder) != info.adapter_sha256:
            raise WorkspaceError(f"{folder}: the adapter is not the one that was written; run the stage again")
        if stage.kind != "init":
            parent = _verified_parent(context, stage, info)
            bases[stage.name], base_hashes[stage.name] = bases[parent.name], base_hashes[parent.name]
            if isinstance(info, MergeInfo):
                merged = merged_base(folder)
                report = verify_merge(merged, base=bases[parent.name], adapter=context.output(parent))
                bases[stage.name], base_hashes[stage.name] = merged, report.merged_sha256
        if info.base_sha256 != base_hashes[stage.name]:
            raise WorkspaceError(f"{folder}: its base has changed since; fetch or create the base again")
        verified += 1
        yield f"{stage.label}: adapter {info.adapter_sha256[:12]}… on base {info.base_sha256[:12]}… verified"
    if not verified:
        raise WorkspaceError(
            f"there is nothing of {context.model} in {context.workspace.root}; create it with: {context.command('run')}"
        )


def _verified_parent(context: ChainContext, stage: Stage, info: StageInfo) -> Stage:
    """The stage that `info` was made from, whose adapter is still the one it records."""
    if not isinstance(info, TrainingInfo | MergeInfo):
        return parent_of(stage)
    recorded = info.depends_on.parent
    parent = stage_of_output(recorded.folder.partition("/")[0])
    if adapter_sha256(context.output(parent)) != recorded.adapter_sha256:
        raise WorkspaceError(
            f"{context.output(stage)}: it was made from another {recorded.folder}; run the stage again"
        )
    return parent
