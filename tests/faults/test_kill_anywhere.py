"""A chain killed by SIGKILL anywhere and run again ends like one that was not.

LORACHAIN_FAULT_POINTS (default 8; `make faults`: 60) kills are spread over the whole chain, which was run command by
command. The command that was killed is run again; after the first kill `run` goes on to the end of the chain.
"""

import os
import random

import pytest

from fault_making import Undisturbed, kind

POINTS = int(os.environ.get("LORACHAIN_FAULT_POINTS", "8"))
SEED = 20240531
REQUIRED = ("checkpoint", "merge", "final save", "record", "ledger", "optimizer step")


def choose(events: list[tuple[str, str]], count: int) -> list[int]:
    """Event numbers, from 1: some of each required kind, the others spread over the whole chain."""
    rng = random.Random(SEED)
    points: set[int] = set()
    for required in REQUIRED:
        numbers = [number for number, event in enumerate(events, start=1) if kind(*event) == required]
        points |= set(rng.sample(numbers, max(1, count // 12)))
    parts = count - len(points)
    for part in range(parts):
        first, last = len(events) * part // parts + 1, len(events) * (part + 1) // parts
        points.add(rng.choice([number for number in range(first, last + 1) if number not in points]))
    return sorted(points)


def test_the_chain_has_events_of_every_kind(undisturbed: Undisturbed) -> None:
    assert {kind(*event) for event in undisturbed.events}.issuperset(REQUIRED)
    assert not undisturbed.expected["leftovers"]
    assert not undisturbed.expected["lock"]
    assert len(choose(undisturbed.events, 60)) == 60


@pytest.mark.parametrize("number", range(POINTS))
def test_killed_and_run_again_it_ends_the_same(undisturbed: Undisturbed, number: int) -> None:
    at = choose(undisturbed.events, POINTS)[number]
    part, killed = undisturbed.disturb(at)
    assert killed.code == -9, (undisturbed.events[at - 1], killed.err)
    locked = (undisturbed.place.model / ".lock-tiny").exists()  # not before its first events and after its last
    if number % 3 == 2:  # killed a second time while it resumes
        assert undisturbed.run(*part.command, at=max(3, len(part.events) // 4)).code in (-9, 0)
    done = undisturbed.finish(part if number else None)
    assert number % 3 == 2 or ("took over the lock of a run that ended unexpectedly" in done.err) == locked


def test_a_finished_chain_run_again_does_nothing(undisturbed: Undisturbed) -> None:
    """`run` also ends as its commands do one by one."""
    undisturbed.restore(undisturbed.part("train", "02"))
    undisturbed.finish()
    assert undisturbed.finish().err.count("skipped") == 5
