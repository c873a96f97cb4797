"""The chain as a folder that others can use: merged weights, or one adapter on the public base."""

import shutil
from pathlib import Path

from lorachain.export.card import CardFacts, write_card
from lorachain.weights.compose import ComposeReport, compose_adapters
from lorachain.weights.merge import COMPANIONS, Progress, merge_adapter
from lorachain.weights.merge_report import MergeReport
from lorachain.weights.quantized import trained_in
from lorachain.workspace import atomic_folder

_NOT_WITH_AN_ADAPTER = {"config.json", "generation_config.json", "NOTICE"}


def export_hf(
    base: Path,
    adapter: Path,
    out: Path,
    facts: CardFacts,
    *,
    expected_base_sha256: str | None = None,
    on_progress: Progress | None = None,
) -> MergeReport:
    """Base + adapter merged into `out`, with model card, NOTICE and merge report. Replaces what stood there.

    For a whole chain `base` is stage 01's merged base and `adapter` stage 02's.

    Raises:
        AdapterError, ModelError, WorkspaceError: as `merge_adapter`; nothing is written.
    """
    with atomic_folder(out) as staging:
        report = merge_adapter(
            base,
            adapter,
            staging / "merged",
            expected_base_sha256=expected_base_sha256,
            final=out,
            quantization=trained_in(adapter),
            on_progress=on_progress,
        )
        _lift(staging / "merged")
        write_card(staging, facts, "hf")
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
    """Both stages as one LoRA on the public base in `out`, with tokenizer, model card, NOTICE and compose report.

    `facts.base` is what the adapter's configuration names as its base.

    Raises:
        AdapterError, ModelError, ConfigError, WorkspaceError: as `compose_adapters`; nothing is written.
    """
    with atomic_folder(out) as staging:
        report = compose_adapters(
            base, first, second, staging / "composed", merged_base=merged_base, base_name=facts.base, rank=rank
        )
        _lift(staging / "composed")
        for name in COMPANIONS:
            if name not in _NOT_WITH_AN_ADAPTER and (base / name).is_file():
                shutil.copyfile(base / name, staging / name)
        write_card(staging, facts, "adapter")
    return report


def _lift(folder: Path) -> None:
    """Moves a folder's files one level up and removes it."""
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()
