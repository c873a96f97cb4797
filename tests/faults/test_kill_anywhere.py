"""The chain killed by SIGKILL anywhere and run again ends as the chain that was not.

LORACHAIN_FAULT_POINTS (default 8; `make faults`: 60) points are spread over the whole chain.
"""

import os
import random

import pytest

from fault_making import Undisturbed, kind

POINTS = int(os.environ.get("LORACHAIN_FAULT_POINTS", "8"))
SEED = 20240531
REQUIRED = ("checkpoint", "merge", "final save", "record", "optimizer step")


def choose(events: list[tuple[str, str]], count: int) -> list[int]:
    """Event numbers, from 1: some of each required kind, the others one a stretch of the whole chain."""
    rng = random.Random(SEED)
    points: set[int] = set()
    for wanted in REQUIRED:
        numbers = [number for number, event in enumerate(events, start=1) if kind(*event) == wanted]
        points |= set(rng.sample(numbers, max(1, count // 12)))
    rest = count - len(points)
    for stretch in range(rest):
        bounds = (len(events) * stretch // rest, len(events) * (stretch + 1) // rest)
        free = [number for number in range(bounds[0] + 1, bounds[1] + 1) if number not in points]
        points.add(rng.choice(free))
    return sorted(points)


def test_the_chain_has_events_of_every_kind(undisturbed: Undisturbed) -> None:
    assert {kind(*event) for event in undisturbed.events}.issuperset(REQUIRED)
    assert not undisturbed.wanted["leftovers"]
    assert not undisturbed.wanted["lock"]
    assert len(choose(undisturbed.events, 60)) == 60


@pytest.mark.parametrize("number", range(POINTS))
def test_killed_and_run_again_it_ends_the_same(undisturbed: Undisturbed, number: int) -> None:
    at = choose(undisturbed.events, POINTS)[number]
    undisturbed.place.renew()
    killed = undisturbed.run("run", at=at)
    assert killed.code == -9, (undisturbed.events[at - 1], killed.err)
    if number % 3 == 2:  # and killed again on its way back, where it has one
        assert undisturbed.run("run", at=max(3, (len(undisturbed.events) - at) // 2)).code in (-9, 0)
    done = undisturbed.finish()
    assert "took over the lock of a run that ended without a word" in killed.err + done.err or number % 3 == 2


def test_a_finished_chain_run_again_does_nothing(undisturbed: Undisturbed) -> None:
    undisturbed.finish()
    assert undisturbed.finish().err.count("skipped") == 5
