"""What several processes decide and compute together."""

from pathlib import Path

import pytest

from lorachain.errors import DataError, LorachainError
from lorachain.processes import Processes
from two_threads import TwoThreads


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> TwoThreads:
    return TwoThreads(monkeypatch)


def fail(processes: Processes) -> str:
    raise DataError(f"row {processes.rank} is broken")


def test_the_main_process_decides_for_all(two: TwoThreads) -> None:
    assert two.run(lambda processes: processes.broadcast(lambda: f"by {processes.rank}")) == ["by 0", "by 0"]


def test_the_items_are_shared_out() -> None:
    assert [Processes(rank, 3).share("abcdefg") for rank in range(3)] == ["adg", "be", "cf"]


def test_results_are_gathered_by_rank(two: TwoThreads) -> None:
    assert two.run(lambda processes: processes.gather(lambda: processes.rank * 2)) == [[0, 2], [0, 2]]


@pytest.mark.parametrize("way", ["broadcast", "gather", "first_on_each_node"])
def test_an_error_of_one_process_is_raised_in_all(two: TwoThreads, way: str) -> None:
    """Otherwise the others wait for it."""
    errors = two.run(lambda processes: getattr(processes, way)(lambda: fail(processes)))
    assert [(type(error), str(error)) for error in errors] == [(DataError, "row 0 is broken")] * 2


def test_the_first_error_by_rank_is_raised(two: TwoThreads) -> None:
    def compute(processes: Processes) -> list[str]:
        return processes.gather(lambda: fail(processes) if processes.rank else "fine")

    assert list(map(str, two.run(compute))) == ["row 1 is broken"] * 2


@pytest.mark.parametrize(("local_rank", "written"), [(1, ["0"]), (0, ["0", "1"])])
def test_one_process_of_each_node_prepares(
    two: TwoThreads, tmp_path: Path, local_rank: int, written: list[str]
) -> None:
    """The second process finds what the first wrote; on another node, with another disk, it writes its own."""

    def prepare(processes: Processes) -> str:
        disk = tmp_path / f"node-{0 if local_rank else processes.rank}"
        if not disk.exists():
            disk.write_text(str(processes.rank))
        return disk.read_text()

    def work(processes: Processes) -> str:
        own = Processes(processes.rank, 2, local_rank=local_rank if processes.rank else 0)
        return own.first_on_each_node(lambda: prepare(own))

    assert sorted({*map(str, two.run(work))}) == written


def test_alone_nothing_is_exchanged() -> None:
    alone = Processes()
    assert alone.gather(lambda: 1) == [1]
    assert alone.broadcast(lambda: 2) == alone.first_on_each_node(lambda: 2) == 2
    with pytest.raises(LorachainError, match="row 0 is broken"):
        alone.gather(lambda: fail(alone))
