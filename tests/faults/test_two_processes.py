"""Two processes share each step over gloo, each with the whole model (DDP) or half of its layers' weights (FSDP2).

The adapter is that of one process to rounding, and an interrupted run resumes exactly.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fault_client import Done, Running
from fault_making import Place, Undisturbed, differences, outcome
from lorachain.evaluation.results import read_results
from lorachain.weights.quantized import trained_in

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""The variables that `accelerate launch --use_fsdp --fsdp_version 2` sets."""


def environments() -> list[dict[str, str]]:
    """The variables that a launcher sets for each of two processes."""
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
    sharding: dict[str, str]

    def renew(self) -> None:
        self.place.renew()
        done = self.base.server.run(*self.place.command("init"))
        assert done.code == 0, done.err

    def start(self, *arguments: str, at: int = 0, slow_step: float = 0.0) -> list[Running]:
        command = self.place.command(*(arguments or ("train", "00")), "--device", "cpu")
        return [
            self.base.server.start(
                *command, environment={**environment, **self.sharding}, at=0 if rank else at, slow_step=slow_step
            )
            for rank, environment in enumerate(environments())
        ]

    def start_command(self, command: tuple[str, ...], at: int = 0) -> list[Running]:
        return [
            self.base.server.start(*command, environment={**environment, **self.sharding}, at=0 if rank else at)
            for rank, environment in enumerate(environments())
        ]

    def run_command(self, command: tuple[str, ...]) -> list[Done]:
        both = self.wait(self.start_command(command))
        assert [done.code for done in both] == [0, 0], [done.err for done in both]
        return both

    def wait(self, both: list[Running]) -> list[Done]:
        return [self.base.server.wait(running) for running in both]

    def run(self, *arguments: str) -> list[Done]:
        both = self.wait(self.start(*arguments))
        assert [done.code for done in both] == [0, 0], [done.err for done in both]
        return both


@pytest.fixture(scope="module", params=[{}, FSDP2], ids=["DDP", "FSDP2"])
def pair(undisturbed: Undisturbed, request: pytest.FixtureRequest) -> Pair:
    return Pair(undisturbed, replace(undisturbed.place, root=undisturbed.place.root.with_name("pair")), request.param)


@pytest.fixture(scope="module")
def expected(pair: Pair) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """The outcome of two processes without faults, and the events of the main one."""
    pair.renew()
    first, second = pair.run()
    assert second.out == second.err == ""  # only the main one prints
    assert [path.name for path in (pair.place.model / "00_training").glob(".*.data*")] == [".tiny.data"]
    assert not any("/checkpoint-" in path or "_trained" in path for _, path in second.events)  # or writes
    return outcome(pair.place), first.events


def test_killed_and_started_again_two_processes_end_the_same(
    pair: Pair, expected: tuple[dict[str, object], list[tuple[str, str]]]
) -> None:
    result, events = expected
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
    pair: Pair, expected: tuple[dict[str, object], list[tuple[str, str]]]
) -> None:
    pair.renew()
    both = pair.start(slow_step=0.5)
    while not any((pair.place.model / "00_training" / "tiny").glob("checkpoint-2")):
        os.kill(both[1].pid, 0)
    os.kill(both[1].pid, signal.SIGTERM)
    done = pair.wait(both)
    assert [one.code for one in done] == [143, 143], done
    assert "which is saved; resume with: lorachain train 00" in done[0].err
    assert done[1].err == ""
    pair.run()
    assert not differences(outcome(pair.place), expected[0])


def test_two_processes_train_the_adapter_that_one_trains(pair: Pair) -> None:
    """To rounding: sums are taken in another order. Without dropout, which each process draws by itself."""
    plain = replace(pair, place=replace(pair.place, dropout=0.0))
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


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_two_processes_train_on_a_quantized_base_what_one_trains(undisturbed: Undisturbed, quantization: str) -> None:
    """To rounding; with sharded layers to the last bit what two whole models train."""
    place = replace(undisturbed.place, root=undisturbed.place.root.with_name("quantized"), dropout=0.0)
    command = ("train", "00", "--set", f"quantization={quantization}")

    def trained(sharding: dict[str, str] | None) -> dict[str, torch.Tensor]:
        pair = Pair(undisturbed, place, sharding or {})
        pair.renew()
        if sharding is None:
            assert undisturbed.server.run(*place.command(*command)).code == 0
        else:
            pair.run(*command)
        adapter = place.model / "00_trained" / "tiny"
        assert trained_in(adapter) == quantization
        return load_file(adapter / "adapter_model.safetensors")

    one, two = trained(None), trained({})
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    if quantization == "nf4":  # the other is refused
        sharded = trained(FSDP2)
        assert all(torch.equal(sharded[name], tensor) for name, tensor in two.items())


@pytest.mark.parametrize("protocol", ["letters", "reasoning"])
def test_an_evaluation_by_two_processes_is_that_of_one(pair: Pair, protocol: str) -> None:
    """Question by question; a killed one resumes, with any number of processes."""
    pair.renew()
    settings = ("--protocol", protocol, "--limit", "12", "--model", "tiny", "--workspace", str(pair.place.root))
    limit = ("--max-new-tokens", "8") if protocol == "reasoning" else ()

    def command(out: str) -> tuple[str, ...]:
        return ("eval", "base", "--out", str(pair.place.root / out), "--device", "cpu", *settings, *limit)

    assert pair.base.server.run(*command("one.json")).code == 0
    _, other = pair.run_command(command("two.json"))
    assert other.out == other.err == ""
    assert scores(pair.place.root / "two.json") == scores(pair.place.root / "one.json")

    killed, left = pair.start_command(command("three.json"), at=3)  # as the third batch is written
    assert pair.base.server.wait(killed).code == -9
    os.kill(left.pid, signal.SIGKILL)
    pair.base.server.wait(left)
    assert (pair.place.root / "three.json.unfinished.jsonl").is_file()
    assert pair.base.server.run(*command("three.json")).code == 0
    assert scores(pair.place.root / "three.json") == scores(pair.place.root / "one.json")


def test_reasoning_written_by_two_processes_is_that_of_one(pair: Pair) -> None:
    """Sample by sample, with the command and its bytes; a killed run resumes with any number of processes."""
    pair.renew()
    questions = [
        {"question": f"맥박 {i}?", **dict(zip("ABCDE", "가나다라마", strict=True)), "answer": i % 5 + 1}
        for i in range(20)
    ]
    exam = pair.place.root / "exam" / "doctor"
    exam.mkdir(parents=True)
    for split, rows in (("train", questions[:18]), ("dev", questions[18:])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (exam / f"{split}.jsonl").write_text(lines, encoding="utf-8")

    def command(out: str) -> tuple[str, ...]:
        settings = ("--samples", "2", "--set", "reasoning.max_new_tokens=24", "--exam", str(exam.parent))
        command = (
            "write-reasoning",
            "--from",
            "base",
            "--out",
            str(pair.place.root / out),
            "--device",
            "cpu",
            *settings,
        )
        return pair.place.command(*command)

    def files(out: str) -> dict[str, bytes]:
        root = pair.place.root / out
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}

    assert pair.base.server.run(*command("one")).code == 0
    _, other = pair.run_command(command("two"))
    assert other.out == other.err == ""
    assert files("two") == files("one")
    assert files("one")

    killed, left = pair.start_command(command("three"), at=2)  # as the second unit is stored
    assert pair.base.server.wait(killed).code == -9
    os.kill(left.pid, signal.SIGKILL)
    pair.base.server.wait(left)
    assert pair.base.server.run(*command("three")).code == 0
    assert files("three") == files("one")


def scores(out: Path) -> Any:
    result, rows = read_results(out)
    return result.score, rows


def test_a_launcher_starts_two_processes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """`python -m lorachain` under torchrun, which `accelerate launch --multi_gpu` calls."""
    place = replace(undisturbed.place, root=undisturbed.place.root.with_name("launched"))
    pair = Pair(undisturbed, place, FSDP2)
    pair.renew()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "lorachain", *pair.place.command("train", "00", "--device", "cpu")]
    environment = {**os.environ, **pair.sharding, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert (pair.place.model / "00_trained" / "tiny" / "training_info.json").is_file()


def without_ledger(files: dict[str, Any]) -> dict[str, Any]:
    """A sharded model is not scored for the ledger in the run (docs/ledger.md)."""
    return {name: file for name, file in files.items() if not name.startswith("ledger/")}


def test_a_chain_with_sharded_layers_equals_one_with_whole_models(undisturbed: Undisturbed) -> None:
    """Byte for byte, including validation, exact match, the best epoch's adapter and the merge. A stage started with
    one resumes with the other."""
    chains = []
    place = replace(undisturbed.place, root=undisturbed.place.root.with_name("chain"))
    for sharding in ({}, FSDP2):
        both = Pair(undisturbed, place, sharding)
        both.renew()
        main, _ = both.run("run")
        chains.append(without_ledger(outcome(place)))
    assert not differences(chains[1], chains[0])

    steps = [number for number, event in enumerate(main.events, start=1) if event[0] == "optimizer step"]
    both.renew()
    one, other = both.start("run", at=steps[5])
    assert undisturbed.server.wait(one).code == -9
    os.kill(other.pid, signal.SIGKILL)
    undisturbed.server.wait(other)
    first, _ = replace(both, sharding={}).run("train", "00")
    assert "resuming from checkpoint-4" in first.err
    assert not differences(trained_00(outcome(place)), trained_00(chains[0]))


def trained_00(files: dict[str, Any]) -> dict[str, Any]:
    """What stage 00 published."""
    published = {name: file for name, file in files.items() if name.startswith("00_trained/")}
    assert published
    return published


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED is set"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP_VERSION is '1'; allowed: 2"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "lorachain does not offload"),
    ],
)
def test_other_kinds_of_sharding_are_refused(undisturbed: Undisturbed, setting: dict[str, str], says: str) -> None:
    environment = {**environments()[0], **setting}
    done = undisturbed.server.run(*undisturbed.place.command("train", "00"), environment=environment)
    assert done.code == 2
    assert says in done.err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ("write-reasoning", "--engine", "openai", "--base-url", "http://[::1]"),
            "--engine openai uses its own GPUs; start `lorachain write-reasoning` without a launcher",
        ),
        (("ablate",), "a launcher started 2 processes, and this command does not share its work"),
        (
            (
                "eval",
                "m",
                "--out",
                "o.json",
                "--protocol",
                "reasoning",
                "--engine",
                "openai",
                "--base-url",
                "http://[::1]",
            ),
            "--engine openai uses its own GPUs; start `lorachain eval` without a launcher",
        ),
    ],
)
def test_work_that_is_not_shared_is_refused(undisturbed: Undisturbed, command: tuple[str, ...], says: str) -> None:
    """Each process would do all of it and write the same files."""
    options = ("--model", "tiny", "--workspace", str(undisturbed.place.root), "--device", "cpu")
    pair = [undisturbed.server.start(*command, *options, environment=one) for one in environments()]
    main, other = map(undisturbed.server.wait, pair)
    assert (main.code, other.code) == (2, 2)
    assert says in main.err


def test_a_base_in_8_bits_is_not_sharded(undisturbed: Undisturbed, tmp_path: Path) -> None:
    (tmp_path / "quantized.toml").write_text('quantization = "int8"', encoding="utf-8")
    command = ("train", "00", "--model", "tiny", "--workspace", str(undisturbed.place.root))
    environment = {**environments()[0], **FSDP2}
    done = undisturbed.server.run(*command, "--config", str(tmp_path / "quantized.toml"), environment=environment)
    assert done.code == 2
    assert "'quantization' is 'int8', which is not sharded" in done.err
