"""A LoRA merged into its base, tensor by tensor on disk, with a report of what changed.

The merged files have the base's own layout: headers, shards and order stay, only the bytes of the adapted weights
change. W' = round(W + scale*B@A), everything in float32 and rounded once to the base's type. Memory is a few blocks and
one layer's factors, whatever the model's size.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from lorachain.artifacts import MergeReport, MergeWeights, TargetReport
from lorachain.atomic import atomic_folder, require_space
from lorachain.config import Quantization
from lorachain.errors import AdapterError, ModelError, WorkspaceError
from lorachain.weights.blockwise import BlockWorkers, MergedBlock, block_workers, merge_block, row_blocks
from lorachain.weights.checks import check_weights
from lorachain.weights.load import TOKENIZER_FILES
from lorachain.weights.lora_file import LoraTarget, adapter_sha256, open_lora
from lorachain.weights.merge_report import build_merge_report, write_merge_report
from lorachain.weights.merge_source import MergeSource, merge_sources
from lorachain.weights.safetensors_io import (
    INDEX_FILE,
    TORCH_DTYPES,
    Shards,
    StoredTensor,
    combine_digests,
    read_blocks,
    refuse_not_finite,
    tensor_sha256,
)

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in total."""
MergeCheck = Callable[[Path, MergeReport], MergeReport]
"""Checks a merged directory before it gets its name; returns the report with what was measured."""

COMPANIONS = (
    *("config.json", "generation_config.json"),
    *TOKENIZER_FILES,
    *("processor_config.json", "preprocessor_config.json", "LICENSE", "NOTICE"),
)
"""Files of a base that belong to every model derived from it."""
_ROUNDING_SLACK = 2.0**-12  # W + delta is itself rounded to float32 before it is rounded to the base's 16 bits


def merge_adapter(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    expected_base_sha256: str | None = None,
    base_name: str | None = None,
    final: Path | None = None,
    quantization: Quantization = "none",
    weights: MergeWeights = "original",
    on_progress: Progress | None = None,
    check: MergeCheck | None = None,
) -> MergeReport:
    """Writes base + adapter as a model of its own to `out`, with `merge_report.json`. On failure nothing is written.

    Args:
        expected_base_sha256: `weights_sha256` of the base that the adapter was trained on.
        base_name: the base's short name where it has one; the report then contains no path to it.
        final: where the directory will be in the end, if `out` is moved; the report's paths are relative to it.
        quantization: what the base was held in while the adapter was trained.
        weights: what the updates are added to; the base's own weights, or those that its quantized copy stood for.
        check: called with the complete directory before it is renamed to `out`; what it raises undoes the merge.

    Raises:
        AdapterError: the adapter does not fit, is not plain LoRA, would change nothing, or belongs to another base.
        ModelError: the base is incomplete or broken, or has values that are not finite.
        ConfigError: dequantized weights are requested where nothing was quantized, or bitsandbytes is not installed.
        WorkspaceError: `out` exists, or the disk is full.
    """
    if out.exists():
        raise WorkspaceError(f"{out} exists; a merge never overwrites: choose another directory or remove it")
    names = check_weights(base)
    shards = names.shards
    lora = open_lora(adapter, names)
    by_tensor = {names.stored[f"{module}.weight"]: target for module, target in lora.targets.items()}
    _check_types(shards, by_tensor)
    require_space(out, shards.total_bytes)
    with atomic_folder(out) as staging:
        with block_workers() as workers, merge_sources(names, quantization, weights) as source_of:
            written = _write_merged(
                shards, by_tensor, source_of, staging, workers, on_progress or (lambda done, total: None)
            )
        report = build_merge_report(
            base_name=base_name,
            base_path=None if base_name else os.path.relpath(base.resolve(), (final or out).resolve()),
            base_sha256=combine_digests(shards, written.base_digests),
            adapter_path=os.path.relpath(adapter.resolve(), (final or out).resolve()),
            adapter_sha256=adapter_sha256(adapter),
            adapter_tensors=lora.tensor_count,
            merged_sha256=combine_digests(shards, written.merged_digests),
            targets=written.targets,
            untouched=written.untouched,
            quantization=quantization,
            weights=weights,
            dequantized=written.dequantized,
        )
        if expected_base_sha256 is not None and report.base_sha256 != expected_base_sha256:
            raise AdapterError(
                f"{adapter} was trained on a base with the hash {expected_base_sha256[:12]}…, {base} has "
                f"{report.base_sha256[:12]}…: merge it into the model that it was trained on"
            )
        if all(target.lost_to_rounding == target.updates for target in report.targets):
            raise AdapterError(f"{adapter} changes nothing: every update is below half an ulp of the base's type")
        write_merge_report(staging, report)
        if check is not None:
            report = check(staging, report)
            write_merge_report(staging, report)
    return report


def unchanged_layers(report: MergeReport) -> list[str]:
    """The adapter's layers that the merge left as they were, because their B is zero: they were not trained."""
    return [target.module for target in report.targets if not target.updates]


def _check_types(shards: Shards, targets: dict[str, LoraTarget]) -> None:
    for key in targets:
        if shards.tensors[key].dtype not in TORCH_DTYPES:
            raise ModelError(
                f"{shards.folder}: {key} is {shards.tensors[key].dtype}; a LoRA is merged into "
                f"{', '.join(TORCH_DTYPES)}. Use the original weights"
            )


@dataclass(slots=True)
class _Written:
    """What happened to each tensor; SHA-256 of bytes."""

    targets: list[TargetReport] = field(default_factory=list)
    untouched: dict[str, str] = field(default_factory=dict)
    dequantized: dict[str, str] = field(default_factory=dict)
    base_digests: dict[str, str] = field(default_factory=dict)

    @property
    def merged_digests(self) -> dict[str, str]:
        return self.untouched | self.dequantized | {target.tensor: target.merged_sha256 for target in self.targets}


def _write_merged(
    shards: Shards,
    by_tensor: dict[str, LoraTarget],
    source_of: MergeSource,
    out: Path,
    workers: BlockWorkers,
    on_progress: Progress,
) -> _Written:
    done, total = 0, shards.total_bytes
    written = _Written()
    for shard in shards.shards:
        with (out / shard.file.name).open("wb", buffering=0) as stream:
            stream.write(shard.header)
            for tensor in shard.tensors:
                source, target = source_of(tensor), by_tensor.get(tensor.name)
                if target is not None:
                    report = _merge_tensor(source, target, stream, workers)
                    written.targets.append(report)
                    digest = report.base_sha256
                else:
                    digest = _copy_tensor(source, stream)
                    copies = written.untouched if source is tensor else written.dequantized
                    copies[tensor.name] = digest
                written.base_digests[tensor.name] = digest if source is tensor else tensor_sha256(tensor)
                done += tensor.size
                on_progress(done, total)
    if shards.index is not None:
        (out / INDEX_FILE).write_text(json.dumps(shards.index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    copy_companions(shards.folder, out, COMPANIONS)
    return written


def copy_companions(base: Path, out: Path, names: tuple[str, ...]) -> None:
    """Copies the files of that name that a base has.

    Raises:
        ModelError: one is a link to a file outside of the base and of the hub's cache: it could be anyone's secret.
    """
    folder = base.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":  # the hub's cache: snapshots/REVISION/NAME -> ../../blobs/HASH
        allowed.append(folder.parent.parent / "blobs")
    for name in names:
        path = base / name
        if not path.is_file():
            continue
        if not any(path.resolve().is_relative_to(root) for root in allowed):
            raise ModelError(
                f"{path} is a link to {path.resolve()}, outside of the model's directory; it is not copied. Replace "
                "the link by the file if it belongs to the model"
            )
        shutil.copyfile(path, out / name)


def _copy_tensor(tensor: StoredTensor, stream: BinaryIO) -> str:
    """Copies the bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    for block in read_blocks(tensor):
        refuse_not_finite(tensor, block)
        digest.update(block)
        stream.write(block)
    return digest.hexdigest()


def _merge_tensor(tensor: StoredTensor, target: LoraTarget, stream: BinaryIO, workers: BlockWorkers) -> TargetReport:
    """Writes base + update; where B is zero, the base's own bytes (a sum would turn -0.0 into 0.0)."""
    a, b = target.factors()  # (r, in), (out, r)
    square_norm, max_error, updates, lost_to_rounding = 0.0, 0.0, 0, 0
    if not b.any() or not target.scale:
        digest = _copy_tensor(tensor, stream)
        return _target_report(tensor, target, (digest, digest), square_norm, max_error, updates, lost_to_rounding)

    def merged(job: tuple[slice, bytearray]) -> tuple[bytearray, MergedBlock]:
        rows, buffer = job
        weight = torch.frombuffer(buffer, dtype=TORCH_DTYPES[tensor.dtype]).view(-1, tensor.shape[1])
        return buffer, merge_block(weight, b[rows], a, target.scale)

    base_digest, merged_digest = hashlib.sha256(), hashlib.sha256()
    for buffer, block in workers.in_order(merged, row_blocks(tensor)):
        if not math.isfinite(block.max_error) or not math.isfinite(block.square_norm):
            refuse_not_finite(tensor, buffer)
            raise AdapterError(
                f"{tensor.name}: base + adapter is not finite: the adapter's values are too large for it"
            )
        base_digest.update(buffer)
        merged_bytes = block.merged.view(torch.uint8).numpy().data
        merged_digest.update(merged_bytes)
        stream.write(merged_bytes)
        square_norm += block.square_norm
        max_error = max(max_error, block.max_error)
        updates, lost_to_rounding = updates + block.updates, lost_to_rounding + block.lost_to_rounding
    if max_error > 1 + _ROUNDING_SLACK:
        raise ModelError(
            f"{tensor.name}: the merged weight is {max_error:.3f} half-ulps from base + delta, more than one rounding; "
            "the merge or the machine computes wrongly, nothing was kept"
        )
    digests = base_digest.hexdigest(), merged_digest.hexdigest()
    return _target_report(tensor, target, digests, square_norm, max_error, updates, lost_to_rounding)


def _target_report(
    tensor: StoredTensor,
    target: LoraTarget,
    digests: tuple[str, str],
    square_norm: float,
    max_error: float,
    updates: int,
    lost_to_rounding: int,
) -> TargetReport:
    return TargetReport(
        tensor=tensor.name,
        module=target.module,
        dtype=tensor.dtype,
        shape=tuple(tensor.shape),
        rank=target.rank,
        scale=target.scale,
        delta_norm=math.sqrt(square_norm),
        max_error_half_ulps=max_error,
        updates=updates,
        lost_to_rounding=lost_to_rounding,
        base_sha256=digests[0],
        merged_sha256=digests[1],
    )
