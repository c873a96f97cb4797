"""Which packs a step trains on, as docs and docstrings define it, with plain lists. Nothing here imports lorachain.

An epoch's packs are shuffled with the generator of "seed:epoch", cut into buckets of 16 steps, sorted by length within
each bucket, cut into steps, and the steps are shuffled by the same generator. Replayed packs are spread evenly: pack i
of R is in the step i/R of the way through the epoch.
"""

import random
from fractions import Fraction

BUCKET_STEPS = 16


def steps_of_epoch(lengths: list[int], *, seed: int, epoch: int, batch_size: int) -> list[list[int]]:
    """The numbers of the packs of each step."""
    generator = random.Random(f"{seed}:{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    steps: list[list[int]] = []
    while order:
        bucket, order = order[: batch_size * BUCKET_STEPS], order[batch_size * BUCKET_STEPS :]
        bucket.sort(key=lambda pack: lengths[pack])
        while bucket:
            steps.append(bucket[:batch_size])
            bucket = bucket[batch_size:]
    generator.shuffle(steps)
    return steps


def replay_of_steps(replayed: int, steps: int) -> list[list[int]]:
    """The numbers of the replayed packs of each step."""
    spread: list[list[int]] = [[] for _ in range(steps)]
    for pack in range(replayed):
        position = Fraction(pack * steps, replayed)
        spread[int(position)].append(pack)
    return spread
