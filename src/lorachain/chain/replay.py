"""Replay: data of earlier stages, and general instructions, in the batches of a stage, so that it forgets less.

A few per cent of earlier data, interleaved, keep most of what was learned (Ibrahim et al. 2024, arXiv 2403.08763). A
share is one of the supervised tokens of the final mixture, because the loss is a mean over supervised tokens: a share
of examples would give long documents most of it. What is replayed is a pure function of settings, data and epoch, so
that a resumed stage sees what an uninterrupted one sees.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorachain.artifacts import TrainingInfo, read_training_info
from lorachain.artifacts.stages import ReplayedData
from lorachain.chain.context import ChainContext, stage_config, stage_sources
from lorachain.chain.source_records import source_records
from lorachain.chain.stages import Stage, replayable
from lorachain.chain.tasks.base import StageTask, TaskInputs
from lorachain.chain.tasks.dictionary import load_dictionary_task
from lorachain.chain.tasks.instruct import load_instruct_task
from lorachain.config import SourceKind, StageConfig, ValidationConfig
from lorachain.data.sources import SourceInfo
from lorachain.errors import ConfigError
from lorachain.tokens import TokenRow
from lorachain.training.batch_schedule import Pack, replayed_before
from lorachain.workspace import TRAINING_INFO

_SHORTEST_PIECE = 64
_SAMPLED_PACKS = 1024
"""Packs whose supervised tokens are counted for a mean; a corpus may have millions."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One kind of data to replay."""

    kind: SourceKind
    wanted_share: float
    wanted: int
    """Packs per epoch that make up this share."""
    task: StageTask
    per_epoch: int
    """Packs per epoch that there are."""
    order: list[int]
    """All packs of the pool, in the order in which they are taken."""

    def numbers(self, epoch: int) -> list[tuple[int, int]]:
        """(pass, pack) of what an epoch replays: the next packs of the order, in the pool's next pass after the last.

        A pass is what an epoch is to the stage that the data are of: an entry's form and an option's place follow it.
        """
        start, size = epoch * self.per_epoch, len(self.order)
        return [(taken // size, self.order[taken % size]) for taken in range(start, start + self.per_epoch)]

    def most_uses(self, epochs: int) -> int:
        """How often one pack is trained at most."""
        return -(-epochs * self.per_epoch // len(self.order))

    def shortages(self, epochs: int) -> Iterator[str]:
        """What follows from a pool that is too small."""
        what, size = f"replay of {self.kind.replace('_', ' ')}", len(self.order)
        if self.per_epoch < self.wanted:
            reached = 100 * self.wanted_share * self.per_epoch / self.wanted
            yield (
                f"{what}: {self.wanted:,} examples per epoch make up {100 * self.wanted_share:g} % of the mixture, the "
                f"pool has {size:,}; all of them are replayed once per epoch, about {reached:.2g} %"
            )
        if (uses := self.most_uses(epochs)) > 1:
            yield f"{what}: the pool of {size:,} examples is used up to {uses} times in {epochs} epochs"


@dataclass(frozen=True, slots=True)
class Replay:
    """What a stage replays."""

    pools: list[Pool]
    seed: int
    _passes: dict[tuple[SourceKind, int], Sequence[Pack]] = field(default_factory=dict)

    @property
    def sources(self) -> list[SourceInfo]:
        return [source for pool in self.pools for source in pool.task.sources]

    def packs_of_epoch(self, epoch: int) -> "_PacksByReference":
        """The packs of all pools, shuffled; `BatchSchedule` spreads them over the steps in this order."""
        return _PacksByReference([(self._packs(pool, number), pack) for pool, number, pack in self._numbers(epoch)])

    def record(self, steps: int, steps_per_epoch: int, supervised_tokens: int) -> tuple[ReplayedData, ...]:
        """What was replayed in a run of `steps` optimizer steps that trained `supervised_tokens` in all."""
        rows: dict[SourceKind, list[TokenRow]] = {pool.kind: [] for pool in self.pools}
        epochs = -(-steps // steps_per_epoch)
        for epoch in range(epochs):
            numbers = self._numbers(epoch)
            done = min(steps - epoch * steps_per_epoch, steps_per_epoch)
            for pool, number, pack in numbers[: replayed_before(done, len(numbers), steps_per_epoch)]:
                rows[pool.kind] += self._packs(pool, number)[pack]
        return tuple(
            ReplayedData(
                kind=pool.kind,
                share_wanted=pool.wanted_share,
                share=sum(row.supervised for row in rows[pool.kind]) / supervised_tokens,
                supervised_tokens=sum(row.supervised for row in rows[pool.kind]),
                tokens=sum(map(len, rows[pool.kind])),
                examples_per_epoch=pool.per_epoch,
                pool=len(pool.order),
                most_uses=pool.most_uses(epochs),
                sources=source_records(pool.task.sources),
            )
            for pool in self.pools
        )

    def _numbers(self, epoch: int) -> list[tuple[Pool, int, int]]:
        """(pool, pass, pack) of each pack of an epoch, shuffled."""
        numbers = [(pool, *number) for pool in self.pools for number in pool.numbers(epoch)]
        random.Random(f"replay:{self.seed}:{epoch}").shuffle(numbers)
        return numbers

    def _packs(self, pool: Pool, number: int) -> Sequence[Pack]:
        """The packs of a pool in one of its passes."""
        key = (pool.kind, number)
        if key not in self._passes:
            self._passes[key] = pool.task.packs_of_epoch(number)
        return self._passes[key]


class _PacksByReference(Sequence[Pack]):
    """Packs of several sequences, read when their step comes."""

    def __init__(self, references: list[tuple[Sequence[Pack], int]]) -> None:
        self._references = references

    def __len__(self) -> int:
        return len(self._references)

    def __getitem__(self, index: Any) -> Any:
        packs, number = self._references[index]
        return packs[number]


def load_replay(context: ChainContext, stage: Stage, inputs: TaskInputs, task: StageTask) -> Replay | None:
    """The pools of the stage's `replay` setting, or None where it has none.

    An earlier stage's pool is what that stage trains on, as its training_info.json records it: its held-out documents
    and the exam's held-out questions are not in it. Without a finished earlier stage, it is what the settings say.

    Args:
        inputs: those of `task`, the stage's own.

    Raises:
        DataError: a source cannot be read, or has nothing to train on.
    """
    settings = inputs.stage.replay
    if settings is None:
        return None
    own = task.packs_of_epoch(0)
    supervised = mean_supervised(own)
    own_share = 1 - sum(settings.shares.values())
    piece = max(_SHORTEST_PIECE, round(supervised * inputs.stage.batch_size / 2))
    pools = []
    for kind, share in settings.shares.items():
        pool_task = _load_pool(context, stage, inputs, kind, piece)
        packs = pool_task.packs_of_epoch(0)
        wanted = max(1, round(len(own) * supervised * share / own_share / mean_supervised(packs)))
        order = list(range(len(packs)))
        random.Random(f"replay:{inputs.seed}:{kind}").shuffle(order)
        per_epoch = wanted if settings.repeat else min(wanted, len(packs))
        pools.append(Pool(kind, share, wanted, pool_task, per_epoch, order))
    return Replay(pools, inputs.seed)


def mean_supervised(packs: Sequence[Pack]) -> float:
    """Supervised tokens of a pack, on average over packs spread evenly."""
    step = max(1, len(packs) // _SAMPLED_PACKS)
    sampled = range(0, len(packs), step)
    return sum(row.supervised for number in sampled for row in packs[number]) / len(sampled)


def _load_pool(context: ChainContext, stage: Stage, inputs: TaskInputs, kind: SourceKind, piece: int) -> StageTask:
    if kind == "instruct":
        settings = inputs.stage.model_copy(update={"max_samples": None})
        cache = inputs.cache.with_name("instruct-tokens")
        return load_instruct_task(replace(inputs, stage=settings, sources=context.sources.instruct, cache=cache))
    if kind == "known":
        if not context.sources.known:
            raise ConfigError(
                f"stages.{stage.name}.replay.known is set, but no dictionary of known entries is named: write one with "
                f"`lorachain known`, and name it as sources.{context.entry.sources}.known"
            )
        settings = inputs.stage.model_copy(update={"max_samples": None, "forms": inputs.stage.forms or 0})
        cache = inputs.cache.with_name("known-tokens")
        return load_dictionary_task(replace(inputs, stage=settings, sources=context.sources.known, cache=cache))
    earlier = replayable(stage)[kind]
    settings, validation, sources = _as_trained(context, earlier)
    if kind == "plain_text":  # short pieces: one of the earlier stage's length would outweigh the rest of its step
        settings = settings.model_copy(update={"max_length": min(settings.max_length, piece)})
    loaded = replace(
        inputs,
        stage=settings,
        validation=validation,
        sources=sources,
        cache=context.workspace.token_cache(earlier.name, context.model),
    )
    load: Callable[[TaskInputs], StageTask] = earlier.load_task()
    return load(loaded)


def _as_trained(context: ChainContext, stage: Stage) -> tuple[StageConfig, ValidationConfig, list[str]]:
    """Settings and sources of a stage: as it was trained, where it was."""
    folder = context.output(stage)
    if not (folder / TRAINING_INFO).is_file():
        return stage_config(context.config, stage), context.config.validation, stage_sources(context.sources, stage)
    info: TrainingInfo = read_training_info(folder)
    settings = info.depends_on.settings
    return (
        StageConfig.model_validate(settings.stage),
        # Only what decides a result is recorded.
        ValidationConfig.model_validate({**context.config.validation.model_dump(), **settings.validation}),
        [source.name for source in info.sources],
    )
