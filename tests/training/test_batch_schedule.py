"""Which packs each optimizer step trains on."""

import torch

from lorachain.tokens import TokenRow
from lorachain.training.batch_schedule import BatchSchedule, Pack, Share

PACKS = 23


def packs_of_epoch(epoch: int) -> list[Pack]:
    """The first id identifies the pack, the second the epoch."""
    return [[TokenRow([10 + number, epoch, *range(number % 5)], 1)] for number in range(PACKS)]


def make_schedule(share: Share | None = None, micro_batch_tokens: int = 12) -> BatchSchedule:
    return BatchSchedule(
        packs_of_epoch, epochs=3, batch_size=4, micro_batch_tokens=micro_batch_tokens, pad_id=0, seed=0, share=share
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
    parts = [make_schedule(Share(rank, 3)) for rank in range(3)]
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
