"""Every link of the chain, checked anew from the files: hashes, lineage, and the proof of the merge."""

from collections.abc import Iterator

from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history
from lorachain.chain.pipeline import STEP_TITLES
from lorachain.chain.state import STEPS, StepName, output_folder
from lorachain.errors import WorkspaceError
from lorachain.provenance import TRAINING_INFO, as_written, read_json
from lorachain.registry import weights_folder
from lorachain.weights.lora_file import adapter_sha256
from lorachain.weights.safetensors_io import weights_sha256
from lorachain.weights.verify import verify_merge


def verify_chain(context: ChainContext) -> Iterator[str]:
    """One line for each link that holds, in the chain's order.

    Raises:
        WorkspaceError: names the first link that is broken, or says that there is none.
        ModelError, AdapterError: the merge does not hold.
    """
    base = weights_folder(context.entry)
    base_hash = public_hash = weights_sha256(base)
    expected_parent: str | None = None
    found = 0
    for step in STEPS:
        folder = output_folder(context, step)
        if not (folder / TRAINING_INFO).is_file():
            continue
        info = read_json(folder / TRAINING_INFO)
        with as_written(folder / TRAINING_INFO):
            adapter, stands_on = str(info["adapter_sha256"]), str(info["base_sha256"])
            parent = info["depends_on"].get("parent")
            parent_name, parent_hash = (str(parent["folder"]), parent["adapter_sha256"]) if parent else ("", "")
        if adapter_sha256(folder) != adapter:
            raise WorkspaceError(f"{folder}: the adapter is not the one that was written; make the stage again")
        if parent_name.startswith("raw_lora_added/"):
            expected_parent = adapter_sha256(context.workspace.raw_lora_added(context.model))
        if parent and parent_hash != expected_parent:
            raise WorkspaceError(f"{folder}: it was trained from another {parent_name}; make the stage again")
        if step == "merge":
            trained = context.workspace.trained("01", context.model)
            base_hash = verify_merge(folder / "base", base=base, adapter=trained).merged_sha256
        if stands_on != base_hash and not (step == "02" and stands_on == public_hash):
            raise WorkspaceError(f"{folder}: its base has changed since; fetch or make the base again")
        expected_parent = adapter
        found += 1
        yield f"{STEP_TITLES[step]}: adapter {adapter[:12]}… on base {stands_on[:12]}… holds"
    if not found:
        raise WorkspaceError(f"nothing of {context.model} stands in {context.workspace.root}: {context.command('run')}")


def lineage(context: ChainContext, step: StepName) -> Iterator[str]:
    """From the public base to a step, with every score on the way."""
    for name in STEPS:
        folder = output_folder(context, name)
        if not (folder / TRAINING_INFO).is_file():
            raise WorkspaceError(f"{folder} is missing; make it with: {context.command('run')}")
        info = read_json(folder / TRAINING_INFO)
        with as_written(folder / TRAINING_INFO):
            sources = info.get("sources", [])
            made_of = ", ".join(f"{s['name']} ({s['rows']:,} rows, {s['sha256'][:12]}…)" for s in sources)
            adapter = f"{STEP_TITLES[name]}: {info['adapter_sha256'][:12]}… on {info['base']}"
        yield adapter + (f", trained on {made_of}" if made_of else "")
        for line in read_history(folder) if name in ("00", "01", "02") else []:
            if line.stage == name:
                yield f"  {line.words}"
        if name == step:
            return
