"""Which rows each optimizer step sees.

A step is a pure function of (data, seed, step number): resuming needs no more than the number, and processes share a
step by taking every world-th micro-batch of it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lorachain.token_store import StoredPacks
from lorachain.tokens import IGNORE_INDEX, TokenRow, collate, token_budget_groups

Line = Sequence[TokenRow]
"""One line of a batch: a single row, or several packed ones."""

BUCKET_STEPS = 16
"""Lines are sorted by length within this many steps' worth: padding shrinks, order stays random at large."""


class StepInputs(TypedDict):
    """All that one process computes in one optimizer step."""

    micro_batches: list[dict[str, Tensor]]
    normalizer: Tensor  # () float32, supervised tokens of the whole step over all processes
    tokens: int  # ids of the whole step over all processes, padding not counted
    supervised: int


@dataclass(frozen=True, slots=True)
class Share:
    """This process among all: `rank` of `world`."""

    rank: int = 0
    world: int = 1


class BatchSchedule(Dataset[StepInputs]):
    """Optimizer steps of all epochs, by number.

    Args:
        packs_of_epoch: the lines of an epoch (0-based); their count is the same for every epoch, their content may
            differ (options are shuffled anew).
        batch_size: lines an optimizer step.
        micro_batch_tokens: padded tokens that go through the model at a time; a step is split into as many
            micro-batches as that takes, with gradients equal to those of the whole.
    """

    def __init__(
        self,
        packs_of_epoch: Callable[[int], Sequence[Line]],
        *,
        epochs: int,
        batch_size: int,
        micro_batch_tokens: int,
        pad_id: int,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self.packs_of_epoch = packs_of_epoch
        self.epochs = epochs
        self.batch_size = batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.pad_id = pad_id
        self.seed = seed
        self.share = share or Share()
        self._epoch = 0
        self._lines = packs_of_epoch(0)
        self._order = self._step_lines(0)
        self.steps_per_epoch = len(self._order)

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch

    def _step_lines(self, epoch: int) -> list[list[int]]:
        """Line numbers of each step of an epoch: shuffled, length-sorted within buckets, steps shuffled again."""
        rng = random.Random(f"{self.seed}:{epoch}")
        order = list(range(len(self._lines)))
        rng.shuffle(order)
        bucket = self.batch_size * BUCKET_STEPS
        lengths = _pack_lengths(self._lines)
        steps: list[list[int]] = []
        for start in range(0, len(order), bucket):
            chunk = sorted(order[start : start + bucket], key=lambda i: lengths[i])
            steps += [chunk[i : i + self.batch_size] for i in range(0, len(chunk), self.batch_size)]
        rng.shuffle(steps)
        return steps

    def packs_of_step(self, step: int) -> list[Line]:
        """The lines that the step trains on, over all processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._lines = epoch, self.packs_of_epoch(epoch)
            self._order = self._step_lines(epoch)
        return [self._lines[i] for i in self._order[index]]

    def __getitem__(self, step: int) -> StepInputs:
        lines = self.packs_of_step(step)
        lengths = [sum(map(len, line)) for line in lines]
        groups = token_budget_groups(lengths, self.micro_batch_tokens)
        # Every process runs equally many micro-batches, or the gradient exchange would wait for ever.
        while len(groups) % self.share.world and max(map(len, groups)) > 1:
            largest = max(range(len(groups)), key=lambda g: len(groups[g]))
            half = len(groups[largest]) // 2
            groups[largest : largest + 1] = [groups[largest][:half], groups[largest][half:]]
        mine = groups[self.share.rank :: self.share.world]
        batches = [collate([lines[i] for i in group], self.pad_id).as_inputs() for group in mine]
        if len(mine) < -(-len(groups) // self.share.world):  # fewer lines than processes: one without a loss
            spare = collate([lines[groups[0][0]]], self.pad_id).as_inputs()
            batches.append({**spare, "labels": torch.full_like(spare["labels"], IGNORE_INDEX)})
        supervised = sum(row.supervised for line in lines for row in line)
        return StepInputs(
            micro_batches=batches,
            normalizer=torch.tensor(float(supervised)),
            tokens=sum(lengths),
            supervised=supervised,
        )


def _pack_lengths(lines: Sequence[Line]) -> list[int]:
    """Tokens of each line; lines on disk know theirs without being read."""
    return lines.lengths if isinstance(lines, StoredPacks) else [sum(map(len, line)) for line in lines]
