"""Which packs each optimizer step trains on.

A step is a pure function of (data, seed, step number). Resuming needs only the number, and processes share a step by
taking every world-th micro-batch of it.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lorachain.processes import Processes
from lorachain.token_store import StoredPacks
from lorachain.tokens import IGNORE_INDEX, TokenRow, collate, collate_packed, packed_groups, token_budget_groups

Pack = Sequence[TokenRow]
"""A row of a training batch: one sequence, or several that do not attend to each other."""

PacksOfEpoch = Callable[[int], Sequence[Pack]]
"""The packs of an epoch (0-based)."""

BUCKET_STEPS = 16
"""Packs are sorted by length within so many steps: less padding, and still a random order over the epoch."""


class StepInputs(TypedDict):
    """All that one process computes in one optimizer step."""

    micro_batches: list[dict[str, Any]]
    normalizer: Tensor  # () float32, supervised tokens of the whole step over all processes
    tokens: int  # ids of the whole step over all processes, without padding
    supervised: int
    pairs: Tensor  # () float32, pairs of a right and a wrong answer in the whole step over all processes


class BatchSchedule(Dataset[StepInputs]):
    """The optimizer steps of all epochs, by number. Packs are loaded when their epoch is first needed.

    Args:
        packs_of_epoch: the packs of an epoch (0-based). Every epoch has equally many; their content may differ (options
            are shuffled in each).
        replay_of_epoch: packs that are spread evenly over the epoch's steps, in addition to theirs; None: nothing. The
            order of the epoch's own packs does not depend on them, nor does the number of steps.
        batch_size: packs per optimizer step.
        micro_batch_tokens: tokens that go through the model at a time, padding included. A step is split into as many
            micro-batches as that takes; the gradients are those of the whole step.
    """

    def __init__(
        self,
        packs_of_epoch: PacksOfEpoch,
        *,
        epochs: int,
        batch_size: int,
        micro_batch_tokens: int,
        pad_id: int,
        seed: int,
        processes: Processes | None = None,
        replay_of_epoch: PacksOfEpoch | None = None,
    ) -> None:
        self.packs_of_epoch = packs_of_epoch
        self.replay_of_epoch = replay_of_epoch
        self.epochs = epochs
        self.steps: int | None = None
        """Where the schedule ends, within an epoch perhaps, and after more than `epochs`; None: after `epochs`."""
        self.packed = False
        """Whether a micro-batch is one row without padding, with the bounds of its sequences (`collate_packed`)."""
        self.batch_size = batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.pad_id = pad_id
        self.seed = seed
        self.processes = processes or Processes()
        self._splits_packs = False
        self._epoch: int | None = None  # the epoch that is loaded
        self._packs: Sequence[Pack] = []
        self._order: list[list[int]] = []  # the indices of each step's packs
        self._replay: Sequence[Pack] = []
        self._steps_per_epoch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        if self._steps_per_epoch is None:
            self._load_epoch(0)
            self._steps_per_epoch = len(self._order)
        return self._steps_per_epoch

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch if self.steps is None else self.steps

    def _load_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._packs = epoch, self.packs_of_epoch(epoch)
            self._order = self._step_order(epoch)
            self._replay = self.replay_of_epoch(epoch) if self.replay_of_epoch is not None else []

    def _step_order(self, epoch: int) -> list[list[int]]:
        """Indices of each step's packs: shuffled, sorted by length within buckets, and the steps shuffled again."""
        rng = random.Random(f"{self.seed}:{epoch}")
        order = list(range(len(self._packs)))
        rng.shuffle(order)
        bucket = self.batch_size * BUCKET_STEPS
        lengths = _pack_lengths(self._packs)
        steps: list[list[int]] = []
        for start in range(0, len(order), bucket):
            chunk = sorted(order[start : start + bucket], key=lambda i: lengths[i])
            steps += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        rng.shuffle(steps)
        return steps

    def packs_of_step(self, step: int) -> list[Pack]:
        """The packs that the step (0-based) trains on, over all processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        self._load_epoch(epoch)
        replayed, steps = len(self._replay), len(self._order)
        spread = range(replayed_before(index, replayed, steps), replayed_before(index + 1, replayed, steps))
        return [*(self._packs[i] for i in self._order[index]), *(self._replay[i] for i in spread)]

    def limit_micro_batches(self, tokens: int) -> None:
        """From here on a micro-batch has at most `tokens` tokens, even where that splits a pack into its sequences.

        Only a sequence that is longer is a micro-batch by itself.
        """
        self.micro_batch_tokens = tokens
        self._splits_packs = True

    def steps_nearest(self, supervised: int) -> int:
        """The number of steps, at least one, whose supervised tokens are nearest to `supervised`, over any number of
        epochs. Reads the packs of these steps once.
        """
        steps = total = last = 0
        while total < supervised:
            last = sum(row.supervised for pack in self.packs_of_step(steps) for row in pack)
            total, steps = total + last, steps + 1
        return steps - 1 if steps > 1 and total - supervised > last / 2 else max(1, steps)

    def __getitem__(self, step: int) -> StepInputs:
        packs = self.packs_of_step(step)
        if self._splits_packs:
            packs = [part for pack in packs for part in parts_of_pack(pack, self.micro_batch_tokens)]
        lengths = [sum(map(len, pack)) for pack in packs]
        grouped, collated = (packed_groups, collate_packed) if self.packed else (token_budget_groups, collate)
        groups = grouped(lengths, self.micro_batch_tokens)
        # Every process runs equally many micro-batches, otherwise the gradient exchange would wait forever.
        while len(groups) % self.processes.world and max(map(len, groups)) > 1:
            largest = max(range(len(groups)), key=lambda g: len(groups[g]))
            half = len(groups[largest]) // 2
            groups[largest : largest + 1] = [groups[largest][:half], groups[largest][half:]]
        mine = list(self.processes.share(groups))
        batches = [collated([packs[i] for i in group], self.pad_id).as_inputs() for group in mine]
        if len(mine) < -(-len(groups) // self.processes.world):  # fewer packs than processes: one that has no loss
            spare = collated([packs[groups[0][0]]], self.pad_id).as_inputs()
            spare.pop("preference", None)
            nothing = {"labels": torch.full_like(spare["labels"], IGNORE_INDEX), "supervised": spare["supervised"][:0]}
            batches.append({**spare, **nothing})
        supervised = sum(row.supervised for pack in packs for row in pack)
        return StepInputs(
            micro_batches=batches,
            normalizer=torch.tensor(float(supervised)),
            tokens=sum(lengths),
            supervised=supervised,
            pairs=torch.tensor(float(sum(row.is_rejected for pack in packs for row in pack))),
        )


def replayed_before(index: int, replayed: int, steps: int) -> int:
    """How many of an epoch's `replayed` packs come before step `index` of its `steps`.

    They are spread evenly: of 9 steps, 3 packs are in the steps 0, 3 and 6.
    """
    return -(-index * replayed // steps)


def parts_of_pack(pack: Pack, tokens: int) -> list[Pack]:
    """The sequences of a pack, in order, in packs of at most `tokens` tokens; a longer sequence is one by itself. A
    wrong answer stays behind the right one, because their loss is of both."""
    parts: list[list[TokenRow]] = []
    used = 0
    for unit in _units(pack):
        size = sum(map(len, unit))
        if not parts or used + size > tokens:
            parts.append([])
            used = 0
        parts[-1] += unit
        used += size
    return list(parts)


def _units(pack: Pack) -> list[list[TokenRow]]:
    """Each sequence of a pack, with the wrong answer that belongs to it."""
    units: list[list[TokenRow]] = []
    for row in pack:
        if row.is_rejected:
            units[-1].append(row)
        else:
            units.append([row])
    return units


def _pack_lengths(packs: Sequence[Pack]) -> list[int]:
    """Tokens of each pack; packs on disk have their lengths without being read."""
    return packs.lengths if isinstance(packs, StoredPacks) else [sum(map(len, pack)) for pack in packs]
