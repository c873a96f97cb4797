"""init: the public base with a LoRA that changes nothing yet."""

from pathlib import Path
from typing import Any

from lorachain.chain.context import ChainContext
from lorachain.provenance import SCHEMA_VERSION, TRAINING_INFO, git_commit, package_versions, sha256_json, write_json
from lorachain.registry import base_reference, weights_folder, write_default_entries
from lorachain.weights.checks import check_weights
from lorachain.weights.load import load_tokenizer
from lorachain.weights.lora import add_new_lora, save_adapter
from lorachain.weights.lora_file import adapter_sha256
from lorachain.weights.safetensors_io import weights_sha256
from lorachain.workspace import atomic_folder


def initialize(context: ChainContext) -> None:
    """Writes raw_lora_added/{model}, and model_paths.json where it is absent.

    Weights are fetched when they are not here yet; none are loaded into memory.

    Raises:
        ModelError: the weights cannot be had, or are no Gemma 3.
        AdapterError: a target module matches nothing.
    """
    context.reporter.message(f"fetching the weights of {context.model} where they are not here yet")
    base = weights_folder(context.entry)  # the hub shows its own progress bar; the embedded model takes half a minute
    with atomic_folder(context.workspace.raw_lora_added(context.model)) as staging:
        write_new_lora(
            context,
            staging,
            base=base,
            reference=base_reference(context.entry, base),
            stage="init",
            base_sha256=weights_sha256(base),
            depends_on=init_depends_on(context),
        )
        write_default_entries(context.workspace)


def init_depends_on(context: ChainContext) -> dict[str, Any]:
    entry = context.entry.model_dump(mode="json", include={"huggingface_id", "revision", "local_path", "pypi_package"})
    return {"model": entry, "lora": context.config.lora.model_dump(), "seed": context.config.seed}


def write_new_lora(
    context: ChainContext,
    folder: Path,
    *,
    base: Path,
    reference: str,
    stage: str,
    base_sha256: str,
    depends_on: dict[str, Any],
    extra: dict[str, Any] | None = None,
) -> None:
    """A LoRA with B = 0 for `base`, the tokenizer and training_info.json, into `folder`.

    The factors are drawn on a model without weights: a 27B model costs no memory here.
    """
    lora = context.config.lora
    model = add_new_lora(
        check_weights(base).model,
        base_path=reference,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        target_modules=lora.target_modules,
        seed=context.config.seed + (stage != "init"),
    )
    save_adapter(model, folder)
    load_tokenizer(base).save_pretrained(folder)
    write_json(
        folder / TRAINING_INFO,
        {
            "schema_version": SCHEMA_VERSION,
            "stage": stage,
            "model": context.model,
            "depends_on": depends_on,
            "depends_on_sha256": sha256_json(depends_on),
            "base": reference,
            "base_sha256": base_sha256,
            "adapter_sha256": adapter_sha256(folder),
            "versions": package_versions(),
            "git_commit": git_commit(),
            **(extra or {}),
        },
    )
