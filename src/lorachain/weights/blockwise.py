"""Rows of a weight matrix: read, merged and measured block by block, several at a time."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lorachain.weights.safetensors_io import StoredTensor, read_blocks

_BLOCK_ELEMENTS = 1 << 20
# Below a few hundred rows BLAS sums in another order than in PEFT's product of the whole matrix.
_MIN_ROWS = 256
_CACHED_ELEMENTS = 1 << 17
_MAX_WORKERS = 4
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class BlockWorkers:
    """Threads that each compute whole blocks."""

    pool: ThreadPoolExecutor
    count: int

    def in_order(self, work: Callable[[_Job], _Result], jobs: Iterable[_Job]) -> Iterator[_Result]:
        """The results in the jobs' order. At most one job more than there are threads is pending: memory is bounded."""
        pending: deque[Future[_Result]] = deque()
        for job in jobs:
            pending.append(self.pool.submit(work, job))
            if len(pending) > self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def block_workers() -> Iterator[BlockWorkers]:
    """As many threads as torch would use, with torch's own disabled: those synchronize after every small operation,
    which costs more than the operation itself on a shared processor."""
    threads = torch.get_num_threads()
    count = min(threads, _MAX_WORKERS)
    torch.set_num_threads(1)  # inherited by threads that are started from here on
    try:
        with ThreadPoolExecutor(count) as pool:
            yield BlockWorkers(pool, count)
    finally:
        torch.set_num_threads(threads)


def row_blocks(tensor: StoredTensor) -> Iterator[tuple[slice, bytearray]]:
    """The rows of a matrix with their bytes, in blocks of about a million elements and at least `_MIN_ROWS` rows."""
    rows, columns = tensor.shape
    step = max(_MIN_ROWS, _BLOCK_ELEMENTS // columns)
    starts = list(range(0, max(1, rows - _MIN_ROWS + 1), step))  # a short remainder joins the block before it
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
    """In halves of an ulp; not finite where a merged value is not."""
    updates: int
    lost_to_rounding: int


def merge_block(weight: Tensor, b: Tensor, a: Tensor, scale: float) -> MergedBlock:
    """round(weight + scale * b @ a) and its error; `weight` (rows, in), `b` (rows, r), `a` (r, in).

    The sum is float32 for 16-bit weights and float64 for float32 weights, so that only the rounding to the stored type
    matters; for float32 the result has the same bits as a float32 sum (53 >= 2*24 + 2: double rounding is harmless).
    """
    delta = (b @ a).mul_(scale)
    merged = torch.empty_like(weight)
    wide = torch.float64 if weight.dtype == torch.float32 else torch.float32
    square_norm, max_error, updates, lost_to_rounding = 0.0, 0.0, 0, 0
    # A few rows at a time, so that the dozen passes below work in the processor's cache.
    step = max(1, _CACHED_ELEMENTS // weight.shape[1])
    for old, new, update in zip(*(torch.split(t, step) for t in (weight, merged, delta)), strict=True):
        exact = old.to(wide) + update
        new.copy_(exact)
        error = exact.sub_(new).abs_().div_(half_ulp(new))
        changed = update != 0
        max_error = max(max_error, float(error.amax().nan_to_num(math.inf)))  # max() would drop a NaN
        square_norm += float(torch.linalg.vector_norm(update)) ** 2
        updates += int(torch.count_nonzero(changed))
        lost_to_rounding += int(torch.count_nonzero(changed.logical_and_(new == old)))
    return MergedBlock(merged, square_norm, max_error, updates, lost_to_rounding)


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
