"""A LoRA merged into its base, tensor by tensor on disk, with the proof written beside it.

The merged files have the base's own layout: headers, shards and order stay, only the bytes of the adapted weights
change. W' = round(W + scale*B@A), everything in float32 and rounded once to the base's type. Memory is a few blocks and
one layer's factors, whatever the model's size.
"""

import hashlib
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch
from torch import Tensor

from lorachain.errors import AdapterError, ModelError, WorkspaceError
from lorachain.weights.factors import LoraFile, LoraTarget, adapter_sha256, open_lora
from lorachain.weights.layout import read_layout
from lorachain.weights.merge_report import MergeReport, TargetReport, write_merge_report
from lorachain.weights.shards import (
    INDEX_FILE,
    TORCH_DTYPES,
    Shards,
    StoredTensor,
    combine_digests,
    open_shards,
    read_blocks,
)
from lorachain.workspace import atomic_folder, require_space

_Done = TypeVar("_Done")
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

COMPANIONS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
    *("processor_config.json", "preprocessor_config.json", "LICENSE", "NOTICE"),
)
"""Files of a base that belong to every model made from it."""
_BLOCK_ELEMENTS = 1 << 20
# Below some hundred rows BLAS takes another path and sums in another order than PEFT's product of the whole matrix.
_MIN_ROWS = 256
_MAX_WORKERS = 4
_ROUNDING_SLACK = 2.0**-12  # W + delta is itself rounded to float32 before it is rounded to the base's 16 bits


def merge_adapter(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    expected_base_sha256: str | None = None,
    on_progress: Progress | None = None,
) -> MergeReport:
    """Writes base + adapter as a model of its own to `out`, with `merge_report.json`. Nothing is written on failure.

    `expected_base_sha256` is the `weights_sha256` of the base that the adapter was trained on.

    Raises:
        AdapterError: the adapter does not fit, is not plain LoRA, would change nothing, or belongs to another base.
        ModelError: the base is incomplete or broken.
        WorkspaceError: `out` exists, or the disk is full.
    """
    if out.exists():
        raise WorkspaceError(f"{out} exists; a merge never overwrites: choose another folder or remove it")
    shards = open_shards(base)
    layout = read_layout(shards)
    lora = open_lora(adapter, layout)
    by_tensor = {layout.stored[f"{module}.weight"]: target for module, target in lora.targets.items()}
    _check_types(shards, by_tensor)
    require_space(out, shards.total_bytes)
    with atomic_folder(out) as staging, _block_workers() as workers:
        report = _write_merged(shards, lora, by_tensor, staging, workers, on_progress or (lambda done, total: None))
        if expected_base_sha256 is not None and report.base_sha256 != expected_base_sha256:
            raise AdapterError(
                f"{adapter} was trained on a base with the hash {expected_base_sha256[:12]}…, {base} has "
                f"{report.base_sha256[:12]}…: merge it into the model that it was trained on"
            )
        if all(target.base_sha256 == target.merged_sha256 for target in report.targets):
            raise AdapterError(f"{adapter} changes nothing: every update is below half an ulp of the base's type")
        write_merge_report(staging, report)
    return report


def _check_types(shards: Shards, targets: dict[str, LoraTarget]) -> None:
    for key in targets:
        if shards.tensors[key].dtype not in TORCH_DTYPES:
            raise ModelError(
                f"{shards.folder}: {key} is {shards.tensors[key].dtype}; a LoRA is merged into "
                f"{', '.join(TORCH_DTYPES)}. Use the original weights"
            )


@contextmanager
def _block_workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute a block alone. torch's own threads would meet after every small operation, which costs
    more than the operation where the processor is shared with others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads started from here on take it over
    try:
        with ThreadPoolExecutor(min(threads, _MAX_WORKERS)) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)


def _write_merged(
    shards: Shards,
    lora: LoraFile,
    by_tensor: dict[str, LoraTarget],
    out: Path,
    workers: ThreadPoolExecutor,
    on_progress: Progress,
) -> MergeReport:
    done, total = 0, shards.total_bytes
    reports: list[TargetReport] = []
    untouched: dict[str, str] = {}
    for shard in shards.shards:
        with (out / shard.file.name).open("wb", buffering=0) as stream:
            stream.write(shard.header)
            for tensor in shard.tensors:
                target = by_tensor.get(tensor.name)
                if target is None:
                    untouched[tensor.name] = _copy_tensor(tensor, stream)
                else:
                    reports.append(_merge_tensor(tensor, target, stream, workers))
                done += tensor.size
                on_progress(done, total)
    if shards.index is not None:
        (out / INDEX_FILE).write_text(json.dumps(shards.index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in COMPANIONS:
        if (shards.folder / name).is_file():
            shutil.copyfile(shards.folder / name, out / name)
    base_digests = untouched | {report.tensor: report.base_sha256 for report in reports}
    merged_digests = untouched | {report.tensor: report.merged_sha256 for report in reports}
    return MergeReport(
        base_path=str(shards.folder.resolve()),
        base_sha256=combine_digests(shards, base_digests),
        adapter_path=str(lora.folder.resolve()),
        adapter_sha256=adapter_sha256(lora.folder),
        adapter_tensors=lora.tensor_count,
        merged_sha256=combine_digests(shards, merged_digests),
        targets=reports,
        untouched=untouched,
    )


def _copy_tensor(tensor: StoredTensor, stream: BinaryIO) -> str:
    """Copies the bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    for block in read_blocks(tensor):
        digest.update(block)
        stream.write(block)
    return digest.hexdigest()


def _merge_tensor(
    tensor: StoredTensor, target: LoraTarget, stream: BinaryIO, workers: ThreadPoolExecutor
) -> TargetReport:
    a, b = target.factors()  # (r, in), (out, r)

    def merged(rows: slice, buffer: bytearray) -> tuple[bytearray, MergedBlock]:
        weight = torch.frombuffer(buffer, dtype=TORCH_DTYPES[tensor.dtype]).view(-1, tensor.shape[1])
        return buffer, merge_block(weight, b[rows], a, target.scale)

    base_digest, merged_digest = hashlib.sha256(), hashlib.sha256()
    square_norm, max_error, updates, swallowed = 0.0, 0.0, 0, 0
    for buffer, block in _in_order(workers, merged, row_blocks(tensor)):
        if not math.isfinite(block.max_error):
            raise AdapterError(f"{tensor.name}: base + adapter is not finite; base or adapter is broken")
        base_digest.update(buffer)
        merged_bytes = block.merged.view(torch.uint8).numpy().data
        merged_digest.update(merged_bytes)
        stream.write(merged_bytes)
        square_norm += block.square_norm
        max_error = max(max_error, block.max_error)
        updates, swallowed = updates + block.updates, swallowed + block.swallowed
    if max_error > 1 + _ROUNDING_SLACK:
        raise ModelError(
            f"{tensor.name}: the merged weight is {max_error:.3f} half-ulps from base + delta, more than one rounding; "
            "this is a fault of the merge or of the machine, nothing was kept"
        )
    return TargetReport(
        tensor=tensor.name,
        module=target.module,
        dtype=tensor.dtype,
        shape=list(tensor.shape),
        rank=target.rank,
        scale=target.scale,
        delta_norm=math.sqrt(square_norm),
        max_error_half_ulps=max_error,
        updates=updates,
        swallowed=swallowed,
        base_sha256=base_digest.hexdigest(),
        merged_sha256=merged_digest.hexdigest(),
    )


def _in_order(
    workers: ThreadPoolExecutor, work: Callable[[slice, bytearray], _Done], jobs: Iterable[tuple[slice, bytearray]]
) -> Iterator[_Done]:
    """The results in the jobs' order, a few at a time in flight: what is in memory stays bounded."""
    waiting: deque[Future[_Done]] = deque()
    for job in jobs:
        waiting.append(workers.submit(work, *job))
        if len(waiting) > _MAX_WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def row_blocks(tensor: StoredTensor) -> Iterator[tuple[slice, bytearray]]:
    """The rows of a matrix with their bytes, in blocks of about a million elements and at least `_MIN_ROWS` rows."""
    rows, columns = tensor.shape
    step = max(_MIN_ROWS, _BLOCK_ELEMENTS // columns)
    starts = list(range(0, max(1, rows - _MIN_ROWS + 1), step))  # a short rest joins the block before it
    ends = [*starts[1:], rows]
    row_size = tensor.size // rows
    for start, end in zip(starts, ends, strict=True):
        part = StoredTensor(
            tensor.name, tensor.file, tensor.dtype, (end - start, columns),
            tensor.start + start * row_size, (end - start) * row_size,
        )  # fmt: skip
        (buffer,) = read_blocks(part, part.size)
        yield slice(start, end), buffer


@dataclass(frozen=True, slots=True)
class MergedBlock:
    """Some rows of a merged weight, and what the merge did to them."""

    merged: Tensor  # (rows, in), the base's type
    square_norm: float
    """Sum of the squared deltas."""
    max_error: float
    """In halves of an ulp; not finite where the merged numbers are not."""
    updates: int
    swallowed: int


def merge_block(weight: Tensor, b: Tensor, a: Tensor, scale: float) -> MergedBlock:
    """round(weight + scale * b @ a) and its error; `weight` (rows, in), `b` (rows, r), `a` (r, in).

    The sum is float32 for 16-bit weights and float64 for float32 weights, so that the rounding to the stored type is
    the one that counts; for float32 the result is the same bits as a float32 sum (53 >= 2*24 + 2, double rounding is
    harmless).
    """
    delta = (b @ a).mul_(scale)
    wide = torch.float64 if weight.dtype == torch.float32 else torch.float32
    exact = weight.to(wide) + delta
    merged = exact.to(weight.dtype)
    error = (merged.to(wide) - exact).abs_().div_(half_ulp(merged).to(wide))
    changed = delta != 0
    return MergedBlock(
        merged=merged,
        square_norm=float(torch.linalg.vector_norm(delta, dtype=torch.float32)) ** 2,
        max_error=float(error.amax()),
        updates=int(torch.count_nonzero(changed)),
        swallowed=int(torch.count_nonzero(changed.logical_and_(merged == weight))),
    )


def half_ulp(values: Tensor) -> Tensor:
    """Half the distance to the next larger magnitude of the same type, from the exponent's bits; float32 or float64."""
    bits, exponent_mask = {
        torch.bfloat16: (torch.int16, 0x7F80),
        torch.float16: (torch.int16, 0x7C00),
        torch.float32: (torch.int32, 0x7F800000),
    }[values.dtype]
    info = torch.finfo(values.dtype)
    power_of_two = (values.view(bits) & exponent_mask).view(values.dtype)
    wide = torch.float64 if values.dtype == torch.float32 else torch.float32
    return power_of_two.to(wide).clamp_(min=info.tiny).mul_(info.eps / 2)
