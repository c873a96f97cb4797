"""Which packs each optimizer step trains on."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from lorachain.processes import Processes
from lorachain.tokens import TokenRow
from lorachain.training.batch_schedule import BatchSchedule, Pack

PACKS = 23


def packs_of_epoch(epoch: int) -> list[Pack]:
    """The first id identifies the pack, the second the epoch."""
    return [[TokenRow([10 + number, epoch, *range(number % 5)], 1)] for number in range(PACKS)]


def make_schedule(processes: Processes | None = None, micro_batch_tokens: int = 12) -> BatchSchedule:
    return BatchSchedule(
        packs_of_epoch,
        epochs=3,
        batch_size=4,
        micro_batch_tokens=micro_batch_tokens,
        pad_id=0,
        seed=0,
        processes=processes,
    )


def packs_in(schedule: BatchSchedule, epoch: int) -> list[int]:
    steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
    packs = [pack for step in steps for pack in schedule.packs_of_step(step)]
    assert {pack[0].ids[1] for pack in packs} == {epoch}
    return [pack[0].ids[0] - 10 for pack in packs]


def test_each_epoch_has_each_pack_once_in_another_order() -> None:
    schedule = make_schedule()
    assert (schedule.steps_per_epoch, len(schedule)) == (6, 18)
    orders = [packs_in(schedule, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(PACKS)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_step_depends_on_its_number_alone() -> None:
    forward, backward = make_schedule(), make_schedule()
    expected = [forward.packs_of_step(step) for step in range(len(forward))]
    assert [backward.packs_of_step(step) for step in reversed(range(len(backward)))] == expected[::-1]


def test_packed_micro_batches_are_single_rows_of_the_same_sequences() -> None:
    padded, packed = make_schedule(), make_schedule()
    packed.packed = True
    for step in range(len(packed)):
        inputs, expected = packed[step], padded[step]
        assert inputs["tokens"] == expected["tokens"]
        assert inputs["supervised"] == expected["supervised"]
        assert len(inputs["micro_batches"]) <= len(expected["micro_batches"])
        sequences = []
        for batch in inputs["micro_batches"]:
            (ids,), bounds = batch["input_ids"], batch["bounds"].tolist()
            assert len(ids) == bounds[-1] <= 12
            sequences += [ids[a:b].tolist() for a, b in pairwise(bounds)]
            assert batch["longest"] == max(b - a for a, b in pairwise(bounds))
        assert sorted(sequences) == sorted(row.ids for pack in padded.packs_of_step(step) for row in pack)


def test_construction_loads_nothing() -> None:
    loaded: list[int] = []

    def load(epoch: int) -> list[Pack]:
        loaded.append(epoch)
        return packs_of_epoch(epoch)

    schedule = BatchSchedule(load, epochs=3, batch_size=4, micro_batch_tokens=12, pad_id=0, seed=0)
    assert loaded == []
    schedule.packs_of_step(0)
    schedule.packs_of_step(5)
    assert loaded == [0]
    schedule.packs_of_step(17)
    assert len(schedule) == 18
    assert loaded == [0, 2]


def test_processes_share_a_step() -> None:
    """Each process runs equally many micro-batches, and together they see each supervised token once."""
    whole = make_schedule()
    parts = [make_schedule(Processes(rank, 3)) for rank in range(3)]
    for step in range(len(whole)):
        inputs = [part[step] for part in parts]
        assert len({len(item["micro_batches"]) for item in inputs}) == 1
        assert {item["supervised"] for item in inputs} == {whole[step]["supervised"]}
        labels = [
            batch["labels"][batch["labels"] >= 0] for item in [*inputs, whole[step]] for batch in item["micro_batches"]
        ]
        of_parts = torch.cat(labels[: -len(whole[step]["micro_batches"])])
        of_whole = torch.cat(labels[-len(whole[step]["micro_batches"]) :])
        assert of_parts.sort().values.tolist() == of_whole.sort().values.tolist()
        assert len(of_whole) == whole[step]["supervised"]


def replay_of_epoch(count: int) -> Callable[[int], list[Pack]]:
    return lambda epoch: [[TokenRow([100 + number, epoch, 3], 1)] for number in range(count)]


def with_replay(count: int) -> BatchSchedule:
    return BatchSchedule(
        packs_of_epoch,
        epochs=3,
        batch_size=4,
        micro_batch_tokens=12,
        pad_id=0,
        seed=0,
        replay_of_epoch=replay_of_epoch(count),
    )


@pytest.mark.parametrize("count", [0, 1, 3, 6, 13])
def test_replayed_packs_are_spread_over_the_steps_and_leave_the_others_alone(count: int) -> None:
    own, mixed = make_schedule(), with_replay(count)
    assert len(mixed) == len(own)
    for epoch in range(3):
        steps = range(epoch * 6, (epoch + 1) * 6)
        replayed = [[p[0].ids[0] - 100 for p in mixed.packs_of_step(s) if p[0].ids[0] >= 100] for s in steps]
        assert [number for step in replayed for number in step] == list(range(count))
        assert max(map(len, replayed)) - min(map(len, replayed)) <= 1
        for step in steps:
            assert [p for p in mixed.packs_of_step(step) if p[0].ids[0] < 100] == own.packs_of_step(step)


def test_replayed_tokens_are_counted_and_batched() -> None:
    own, mixed = make_schedule(), with_replay(6)
    for step in range(len(own)):
        assert mixed[step]["tokens"] == own[step]["tokens"] + 3
        assert mixed[step]["supervised"] == own[step]["supervised"] + 2
        assert sum(int((b["labels"] != -100).sum()) for b in mixed[step]["micro_batches"]) == mixed[step]["supervised"]


@pytest.mark.parametrize("count", [0, 6])
def test_a_schedule_can_end_after_a_number_of_supervised_tokens(count: int) -> None:
    schedule = with_replay(count)
    sums = [0]
    for step in range(2 * len(schedule)):  # beyond `epochs` too
        sums.append(sums[-1] + schedule[step]["supervised"])
    for wanted in range(1, sums[-3]):
        steps = schedule.steps_nearest(wanted)
        assert abs(sums[steps] - wanted) == min(abs(total - wanted) for total in sums[1:])
    assert schedule.steps_nearest(0) == 1  # a run has at least one step
    schedule.steps = 7
    assert len(schedule) == 7
