"""What is trained on: a file of rows that were tokenized elsewhere, or random ids in the same lengths."""

import random
from pathlib import Path

from gpu_bench.records import Setting
from lorachain.tokens import TokenRow
from training_bench.workloads import EXAM_BATCH, TEXT_BATCH, Workload, read_workload, write_workload

_IDS = range(6, 300)
"""Ids that every tokenizer has; which ones they are changes no time."""


def random_rows(count: int, length: int, *, first: int, seed: int = 0) -> list[TokenRow]:
    """Sequences of `length` ids, BOS first, supervised from `first`."""
    rng = random.Random(seed)
    return [TokenRow([2, *rng.choices(_IDS, k=length - 1)], first) for _ in range(count)]


def random_workload(name: str, *, pack_length: int, steps: int) -> Workload:
    """Stage 00: full packs of documents of up to `pack_length` tokens. Stage 02: questions of an eighth to a half of
    it, of which the last quarter is the answer."""
    rng, packs = random.Random(name), []
    count = (TEXT_BATCH if name == "00" else EXAM_BATCH) * steps
    for seed in range(count):
        if name != "00":
            length = rng.randint(pack_length // 8, pack_length // 2)
            packs.append(random_rows(1, length, first=length - length // 4, seed=seed))
            continue
        lengths: list[int] = []
        while sum(lengths) < pack_length - 16:
            lengths.append(min(rng.randint(16, pack_length), pack_length - sum(lengths)))
        packs.append([random_rows(1, length, first=1, seed=seed + n)[0] for n, length in enumerate(lengths)])
    return Workload(name, "random ids", TEXT_BATCH if name == "00" else EXAM_BATCH, packs)


def workload_files(setting: Setting, work: Path, *, pack_length: int, steps: int) -> dict[str, Path]:
    """By name (`00`, `02`): the files that were given, and random ids for the others."""
    files = {read_workload(Path(path)).name: Path(path) for path in setting.workloads}
    for name in ("00", "02"):
        if name not in files:
            files[name] = work / f"workload-{name}.json"
            write_workload(random_workload(name, pack_length=pack_length, steps=steps), files[name])
    return files
