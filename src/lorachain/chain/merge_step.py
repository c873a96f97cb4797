"""The last step of stage 01: its LoRA merged into the base, the proof, and a fresh LoRA on the merged base."""

from typing import Any

from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history, write_history
from lorachain.chain.init_step import write_new_lora
from lorachain.chain.parents import Parent
from lorachain.chain.probe import check_merge_logits
from lorachain.provenance import TRAINING_INFO, read_json
from lorachain.registry import weights_folder
from lorachain.weights.lora_file import adapter_sha256
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import write_merge_report
from lorachain.weights.quantized import trained_in
from lorachain.workspace import atomic_folder


def merge_depends_on(context: ChainContext) -> dict[str, Any]:
    trained = context.workspace.trained("01", context.model)
    return {
        "parent": {"folder": f"01_trained/{context.model}", "adapter_sha256": adapter_sha256(trained)},
        "lora": context.config.lora.model_dump(),
        "seed": context.config.seed,
    }


def merge_and_add_lora(context: ChainContext) -> None:
    """Writes 01_another_lora_added/{model}: base/ (merged, with merge_report.json) and the fresh LoRA on it.

    Raises:
        AdapterError, ModelError, WorkspaceError: the merge cannot be proved or written; nothing is left behind.
    """
    workspace, model = context.workspace, context.model
    trained = workspace.trained("01", model)
    info = read_json(trained / TRAINING_INFO)
    parent = Parent(trained, weights_folder(context.entry), info)
    with atomic_folder(workspace.another_lora_added(model)) as staging:
        with context.reporter.bar("merging 01 into the base", 100) as bar:
            report = merge_adapter(
                parent.base,
                trained,
                staging / "base",
                expected_base_sha256=info["base_sha256"],
                base_name=model,
                final=workspace.merged_base(model),
                quantization=trained_in(trained),
                on_progress=lambda done, total: bar(100 * done // total),
            )
        report = check_merge_logits(report, parent.base, trained, staging / "base", context.device, context.dtype)
        write_merge_report(staging / "base", report)
        write_new_lora(
            context,
            staging,
            base=staging / "base",
            reference=str(workspace.merged_base(model).resolve()),
            stage="01_merge",
            base_sha256=report.merged_sha256,
            depends_on=merge_depends_on(context),
            extra={"probe": report.probe, "quantized_base": report.quantized_base},
        )
        write_history(staging, read_history(trained))
