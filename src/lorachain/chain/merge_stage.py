"""merge: a trained LoRA merged into its base, verified, and a new LoRA on the merged base."""

from lorachain.artifacts import MergeInfo
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.history import read_history, write_history
from lorachain.chain.init_stage import stage_info_fields, write_new_lora
from lorachain.chain.made_from import merge_inputs
from lorachain.chain.parents import find_parent
from lorachain.chain.probe import merge_check
from lorachain.chain.runtime import Runtime
from lorachain.chain.stage_ledger import StageLedger
from lorachain.chain.stages import Stage
from lorachain.registry import weights_folder
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer
from lorachain.weights.merge import merge_adapter
from lorachain.weights.quantized import trained_in
from lorachain.workspace import TRAINING_INFO, merged_base


def merge_and_add_lora(context: ChainContext, runtime: Runtime, stage: Stage) -> None:
    """Writes the stage's output directory: base/ (merged, with merge_report.json) and a new LoRA on it.

    Raises:
        AdapterError, ModelError, WorkspaceError: the merge cannot be verified or written; nothing is kept.
        GateError: the merged model lost more than a gate tolerates.
    """
    parent = find_parent(context, stage)
    ledger = StageLedger(context, runtime, stage, parent.base, TokenEncoder(load_tokenizer(parent.base)))
    ledger.measure_earlier()
    inputs = merge_inputs(stage, parent.folder, context.config.lora, context.config.seed)
    final = context.output(stage)
    with atomic_folder(final) as staging:
        base = merged_base(staging)
        with context.reporter.bar(f"merging {stage.parent} into the base", 100) as bar:
            report = merge_adapter(
                parent.base,
                parent.folder,
                base,
                expected_base_sha256=parent.info.base_sha256,
                base_name=context.model if parent.base == weights_folder(context.entry) else None,
                final=merged_base(final),
                quantization=trained_in(parent.folder),
                on_progress=lambda done, total: bar(100 * done // total, "checking" if done == total else ""),
                check=merge_check(parent.base, parent.folder, runtime.device, runtime.dtype),
            )
        reference = str(merged_base(final).resolve())
        seed = context.config.seed + 1  # not the factors of the first LoRA again
        write_new_lora(staging, base=base, reference=reference, lora=context.config.lora, seed=seed)
        info = MergeInfo(
            depends_on=inputs,
            probe=report.probe,
            quantized_base=report.quantized_base,
            **stage_info_fields(staging, stage, context.model, inputs.as_dict(), reference, report.merged_sha256),
        )
        info.write(staging / TRAINING_INFO)
        write_history(staging, read_history(parent.folder))
        ledger.check(staging, None, "The merge is not kept; it is made again when it is accepted.")
