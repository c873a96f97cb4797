"""Blocks of rows: every byte of a tensor once and in order, whatever the sizes, with bounded memory."""

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorachain.weights import blockwise
from lorachain.weights.blockwise import BlockWorkers, block_workers, row_blocks
from lorachain.weights.safetensors_io import read_shard


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 12),
    elements=st.integers(1, 100),
    smallest=st.integers(1, 12),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_blocks_are_the_rows_of_the_tensor(
    rows: int, columns: int, elements: int, smallest: int, dtype: torch.dtype
) -> None:
    matrix = torch.arange(rows * columns).view(rows, columns).to(dtype)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "_BLOCK_ELEMENTS", elements)
        patch.setattr(blockwise, "_MIN_ROWS", smallest)
        file = Path(name) / "model.safetensors"
        save_file({"a": torch.full((5, 3), -1.0), "m": matrix, "z": torch.full((7,), -1.0)}, file)
        tensor = next(tensor for tensor in read_shard(file).tensors if tensor.name == "m")
        blocks = list(row_blocks(tensor))
    read = [torch.frombuffer(buffer, dtype=dtype).view(-1, columns) for _, buffer in blocks]
    assert torch.equal(torch.cat(read), matrix)
    assert all(torch.equal(matrix[rows_of], part) for (rows_of, _), part in zip(blocks, read, strict=True))
    # Of the size that was configured: at least `smallest` rows, which bits that equal PEFT's need, and not many more.
    wanted = max(smallest, elements // columns)
    assert all(len(part) >= min(smallest, rows) for part in read)
    assert all(len(part) == wanted for part in read[:-1])
    assert len(read[-1]) < wanted + smallest


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_order_of_the_jobs_and_few_jobs_are_pending(count: int) -> None:
    """Most jobs end after their successor, as far as there are threads. One more job than threads is read."""
    jobs, drawn, largest = 12, 0, 0
    done = [threading.Event() for _ in range(jobs)]

    def work(job: int) -> int:
        if count > 1 and job % count != count - 1:
            done[job + 1].wait(30)
        done[job].set()
        return job

    def numbers() -> Iterator[int]:
        nonlocal drawn
        for job in range(jobs):
            drawn += 1
            yield job

    with ThreadPoolExecutor(count) as pool:
        results: list[int] = []
        for result in BlockWorkers(pool, count).in_order(work, numbers()):
            largest = max(largest, drawn - len(results))
            results.append(result)
    assert results == list(range(jobs))
    assert largest == count + 1


def test_an_error_in_a_block_is_raised() -> None:
    def fail(job: int) -> int:
        raise ValueError(f"block {job}")

    with block_workers() as workers, pytest.raises(ValueError, match="block 0"):
        list(workers.in_order(fail, range(3)))


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (3, 3), (9, 4)])
def test_workers_are_torchs_threads_and_each_computes_alone(threads: int, expected: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with block_workers() as workers:
            assert workers.count == expected
            assert torch.get_num_threads() == 1
            assert workers.pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
