"""A chain's weights with model card and notices: merged, or as one adapter on the public base."""

import shutil
from pathlib import Path

from lorachain.artifacts import ComposeReport, MergeReport
from lorachain.export.card import CardFacts, Form, write_card
from lorachain.export.serving import write_serving
from lorachain.provenance import write_json
from lorachain.weights.compose import compose_adapters
from lorachain.weights.lora_config import ADAPTER_CONFIG, read_adapter_config
from lorachain.weights.lora_layers import ADAPTER_WEIGHTS
from lorachain.weights.merge import COMPANIONS, MergeCheck, copy_companions, merge_adapter
from lorachain.weights.quantized import trained_in

_NOT_WITH_AN_ADAPTER = {"config.json", "generation_config.json", "NOTICE"}


def export_hf(
    base: Path,
    adapter: Path,
    out: Path,
    facts: CardFacts,
    *,
    final: Path,
    form: Form = "hf",
    expected_base_sha256: str | None = None,
    check: MergeCheck | None = None,
) -> MergeReport:
    """Base + adapter merged into the empty directory `out`, with model card, NOTICE and merge report.

    For a whole chain `base` is the merged base and `adapter` the one trained on it. `final` is where `out` will be
    renamed to, and `check` that of `merge_adapter`.

    Raises:
        AdapterError, ModelError, WorkspaceError: as `merge_adapter`.
    """
    report = merge_adapter(
        base,
        adapter,
        out / "merged",
        expected_base_sha256=expected_base_sha256,
        final=final,
        quantization=trained_in(adapter),
        check=check,
    )
    _lift(out / "merged")
    write_card(out, facts, form)
    write_serving(out, facts, form)
    return report


def export_adapter(
    base: Path,
    first: Path,
    second: Path,
    out: Path,
    facts: CardFacts,
    *,
    merged_base: Path,
    rank: int | None = None,
) -> ComposeReport:
    """Both adapters as one LoRA on the public base in the empty directory `out`, with tokenizer, model card, NOTICE and
    compose report.

    `facts.base` is what the adapter's configuration names as its base.

    Raises:
        AdapterError, ModelError, ConfigError, WorkspaceError: as `compose_adapters`.
    """
    report = compose_adapters(
        base, first, second, out / "composed", merged_base=merged_base, base_name=facts.base, rank=rank
    )
    _lift(out / "composed")
    _add_companions(base, out, facts)
    return report


def copy_adapter(base: Path, adapter: Path, out: Path, facts: CardFacts) -> None:
    """An adapter of the public base in the empty directory `out`, with tokenizer, model card and NOTICE.

    `facts.base` is what the adapter's configuration names as its base; where training found it is left out.
    """
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, out / ADAPTER_WEIGHTS)
    write_json(out / ADAPTER_CONFIG, read_adapter_config(adapter) | {"base_model_name_or_path": facts.base})
    _add_companions(base, out, facts)


def _add_companions(base: Path, out: Path, facts: CardFacts) -> None:
    copy_companions(base, out, tuple(name for name in COMPANIONS if name not in _NOT_WITH_AN_ADAPTER))
    write_card(out, facts, "adapter")
    write_serving(out, facts, "adapter")


def _lift(folder: Path) -> None:
    """Moves the files of a directory one level up and removes it."""
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()
