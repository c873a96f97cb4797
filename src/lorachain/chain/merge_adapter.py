"""Merges any LoRA into its base and verifies the result: `lorachain merge`."""

from collections.abc import Callable
from pathlib import Path

from lorachain.artifacts import MergeReport, MergeWeights, read_stage_info
from lorachain.chain.probe import merge_check
from lorachain.config import Quantization
from lorachain.embedded_model import EMBEDDED
from lorachain.registry import find_entry, weights_folder
from lorachain.weights.load import comparison_dtype, resolve_device
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import read_merge_report
from lorachain.weights.quantized import trained_in
from lorachain.workspace import TRAINING_INFO, Workspace


def merge_and_verify(
    workspace: Workspace,
    adapter: Path,
    into: str,
    out: Path,
    *,
    model: str = EMBEDDED,
    device: str = "auto",
    quantization: Quantization | None = None,
    weights: MergeWeights = "original",
    on_progress: Callable[[int, int], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> MergeReport:
    """Writes base + adapter to `out`, with merge_report.json, and compares the logits of both.

    Args:
        into: the adapter's base: a directory, a short name that `workspace` knows, or `base` for that of `model`.
        quantization: what the base was held in during training; None: as training_info.json says.

    Raises:
        AdapterError, ModelError, ConfigError, WorkspaceError: nothing is kept.
    """
    named = not Path(into).is_dir()
    name = model if into == "base" else into
    base = weights_folder(find_entry(workspace, name), on_message) if named else Path(into)
    return merge_adapter(
        base,
        adapter,
        out,
        expected_base_sha256=base_of_training(adapter),
        base_name=name if named else None,
        quantization=quantization or trained_in(adapter),
        weights=weights,
        on_progress=on_progress,
        check=merge_check(base, adapter, resolve_device(device), comparison_dtype(base)),
    )


def base_of_training(adapter: Path) -> str | None:
    """Hash of the base that an adapter of ours was trained on; None for an adapter from elsewhere."""
    return read_stage_info(adapter).base_sha256 if (adapter / TRAINING_INFO).is_file() else None


def base_by_name(folder: Path, workspace: Workspace) -> Path | None:
    """The base of a merged directory whose report calls it by a name that the workspace knows."""
    name = read_merge_report(folder).base_name
    return weights_folder(find_entry(workspace, name)) if name else None
