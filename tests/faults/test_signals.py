"""SIGTERM and Ctrl+C: the step is finished and saved, the exit code tells which, the message tells how to resume."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fault_client import Running
from fault_making import Undisturbed


def wait_until(condition: Callable[[], bool], running: Running) -> None:
    while not condition():
        os.kill(running.pid, 0)  # raises where it has ended
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code", "command"), [(signal.SIGTERM, 143, ("run",)), (signal.SIGINT, 130, ("train", "00"))]
)
def test_a_signal_in_training_saves_and_the_same_command_resumes(
    undisturbed: Undisturbed, number: signal.Signals, code: int, command: tuple[str, ...]
) -> None:
    """A second run started meanwhile names the process that holds the lock."""
    part = undisturbed.part("train", "00")
    undisturbed.restore(part)
    running = undisturbed.server.start(*undisturbed.place.command(*command), slow_step=1.0)
    checkpoints = undisturbed.place.model / "00_training" / "tiny"
    wait_until(lambda: any(checkpoints.glob("checkpoint-2")), running)
    if number == signal.SIGTERM:
        second = undisturbed.run("run")
        assert second.code == 2
        assert f"another run is working on tiny in {undisturbed.place.root}: process {running.pid} on " in second.err
    os.kill(running.pid, number)
    done = undisturbed.server.wait(running)
    assert done.code == code, done.err
    assert f"which is saved; resume with: lorachain {' '.join(command)} --model tiny" in done.err
    assert "Traceback" not in done.err
    assert not (undisturbed.place.model / ".lock-tiny").exists()
    assert "resuming from checkpoint-" in undisturbed.finish(None if command == ("run",) else part).err


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal has been sent and not been received: a second one would be the same."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see that a signal was received")
def test_a_second_ctrl_c_exits_at_once(undisturbed: Undisturbed) -> None:
    """During the first step, which would take a minute: no checkpoint is written."""
    undisturbed.restore(undisturbed.part("train", "00"))
    running = undisturbed.server.start(*undisturbed.place.command("run"), slow_step=60.0)
    record = undisturbed.place.model / "00_training" / "tiny" / "run.json"
    wait_until(lambda: record.exists() and '"epoch": 0' in record.read_text(), running)
    time.sleep(2)  # validated before the first step, the run is in that step now
    os.kill(running.pid, signal.SIGINT)
    wait_until(lambda: not is_pending(running.pid, signal.SIGINT), running)
    time.sleep(0.5)
    os.kill(running.pid, signal.SIGINT)
    done = undisturbed.server.wait(running)
    assert done.code == 130, done.err
    assert "resume with: lorachain run" in done.err
    assert "Traceback" not in done.err
    assert not any(record.parent.glob("checkpoint-*"))


def test_sigterm_outside_of_training_removes_what_was_being_written(undisturbed: Undisturbed) -> None:
    copying = next(n for n, event in enumerate(undisturbed.events, start=1) if event[0] == "copy a tensor")
    part, done = undisturbed.disturb(copying, by=signal.SIGTERM)
    assert done.code == 143, done.err
    assert "finished stages and checkpoints are kept; resume with: lorachain train 01" in done.err
    merged = undisturbed.place.model / "01_another_lora_added"
    assert not merged.exists() or not any(merged.iterdir())
    undisturbed.finish(part)
