"""`lorachain status` while another process runs the chain, and after that process was killed."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from chain_making import run_command_line
from fault_client import Running
from fault_making import Undisturbed


def wait_until(condition: Callable[[], bool], running: Running) -> None:
    while not condition():
        os.kill(running.pid, 0)  # raises where it has ended
        time.sleep(0.005)


def status(undisturbed: Undisturbed) -> str:
    """The table, with each run of spaces and borders as one space."""
    code, out, err = run_command_line("status", "--model", "tiny", "--workspace", undisturbed.place.root)
    assert code == 0, err
    return " ".join(out.replace("│", " ").split())


@pytest.mark.parametrize("command", [("run",), ("train", "00")])
def test_it_names_the_process_and_its_command(undisturbed: Undisturbed, command: tuple[str, ...]) -> None:
    part = undisturbed.part("train", "00")
    undisturbed.restore(part)
    running = undisturbed.server.start(*undisturbed.place.command(*command), slow_step=2.0)
    checkpoints = undisturbed.place.model / "00_training" / "tiny"
    wait_until(lambda: any(checkpoints.glob("checkpoint-2")), running)
    try:
        table = status(undisturbed)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        assert undisturbed.server.wait(running).code == -signal.SIGKILL
    assert table.count("running: ") == 1
    assert f"running: process {running.pid} on " in table
    assert "checkpoint at step 2" in table
    assert f"(running) lorachain {' '.join(command)} --model tiny" in table
    assert table.count("fresh") == 1
    assert table.count("missing") == 3

    table = status(undisturbed)  # a killed process holds no lock
    assert "running" not in table
    assert "partial: checkpoint at step 2" in table
    assert "lorachain train 00 --model tiny" in table
    undisturbed.finish(part)


def test_a_lock_without_a_holder_is_not_a_run(undisturbed: Undisturbed) -> None:
    part = undisturbed.part("train", "00")
    undisturbed.restore(part)
    (undisturbed.place.model / ".lock-tiny").write_text("what a kill in the middle of a write left: {")
    assert "running" not in status(undisturbed)
    undisturbed.finish(part)
