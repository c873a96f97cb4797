"""Two processes share each step over gloo: the same adapter to rounding, and resumed as exactly as one."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fault_making import Done, Place, Running, Undisturbed, differences, outcome


def environments() -> list[dict[str, str]]:
    """What a launcher tells each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


@dataclass(frozen=True)
class Pair:
    """`train 00` by two processes, in a workspace of its own."""

    base: Undisturbed
    place: Place

    def renew(self) -> None:
        self.place.renew()
        done = self.base.server.run(*self.place.command("init"))
        assert done.code == 0, done.err

    def start(self, at: int = 0, slow_step: float = 0.0) -> list[Running]:
        command = self.place.command("train", "00", "--device", "cpu")
        return [
            self.base.server.start(*command, environment=environment, at=0 if rank else at, slow_step=slow_step)
            for rank, environment in enumerate(environments())
        ]

    def wait(self, both: list[Running]) -> list[Done]:
        return [self.base.server.wait(running) for running in both]

    def run(self) -> list[Done]:
        both = self.wait(self.start())
        assert [done.code for done in both] == [0, 0], [done.err for done in both]
        return both


@pytest.fixture(scope="module")
def pair(undisturbed: Undisturbed) -> Pair:
    return Pair(undisturbed, replace(undisturbed.place, root=undisturbed.place.root.with_name("pair")))


@pytest.fixture(scope="module")
def wanted(pair: Pair) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """What two undisturbed processes end with, and the main one's events."""
    pair.renew()
    first, second = pair.run()
    assert second.out == second.err == ""  # one speaks
    assert not any("/checkpoint-" in path or "_trained" in path for _, path in second.events)  # and writes
    return outcome(pair.place), first.events


def test_killed_and_started_again_two_processes_end_the_same(
    pair: Pair, wanted: tuple[dict[str, object], list[tuple[str, str]]]
) -> None:
    result, events = wanted
    steps = [number for number, event in enumerate(events, start=1) if event[0] == "optimizer step"]
    pair.renew()
    main, other = pair.start(at=steps[5])
    assert pair.base.server.wait(main).code == -9
    os.kill(other.pid, signal.SIGKILL)
    pair.base.server.wait(other)
    first, _ = pair.run()
    assert "resuming from checkpoint-4" in first.err
    assert not differences(outcome(pair.place), result)


def test_a_signal_to_one_process_stops_both_at_the_same_step(
    pair: Pair, wanted: tuple[dict[str, object], list[tuple[str, str]]]
) -> None:
    pair.renew()
    both = pair.start(slow_step=0.5)
    while not any((pair.place.model / "00_training" / "tiny").glob("checkpoint-2")):
        os.kill(both[1].pid, 0)
    os.kill(both[1].pid, signal.SIGTERM)
    done = pair.wait(both)
    assert [one.code for one in done] == [143, 143], done
    assert "which is saved; go on with: lorachain train 00" in done[0].err
    assert done[1].err == ""
    pair.run()
    assert not differences(outcome(pair.place), wanted[0])


def test_two_processes_train_the_adapter_that_one_trains(pair: Pair) -> None:
    """To rounding: sums are formed in another order. Without dropout, which each process draws for itself."""
    plain = Pair(pair.base, replace(pair.place, dropout=0.0))
    adapters = []
    for processes in (1, 2):
        plain.renew()
        if processes == 2:
            plain.run()
        else:
            assert plain.base.server.run(*plain.place.command("train", "00")).code == 0
        adapters.append(load_file(plain.place.model / "00_trained" / "tiny" / "adapter_model.safetensors"))
    one, two = adapters
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_launcher_starts_them(pair: Pair, tmp_path: Path) -> None:
    """`python -m lorachain` under torchrun, which `accelerate launch --multi_gpu` calls."""
    pair.renew()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "lorachain", *pair.place.command("train", "00", "--device", "cpu")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert (pair.place.model / "00_trained" / "tiny" / "training_info.json").is_file()


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_the_model_is_refused(undisturbed: Undisturbed, variable: str) -> None:
    environment = {**environments()[0], variable: "true"}
    done = undisturbed.server.run(*undisturbed.place.command("train", "00"), environment=environment)
    assert done.code == 2
    assert variable in done.err
    assert "the model is not sharded" in done.err
