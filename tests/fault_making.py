"""A chain small enough to be killed dozens of times, and the part of its result that must not depend on kills."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fault_client import Done, Server, fault_server

# With dropout, so that random states matter. A checkpoint every two steps: both within an epoch and at its end.
SMALLEST = """
dtype = "float32"
[lora]
rank = 2
alpha = 4
dropout = {dropout}
[validation]
max_questions = 3
heldout_documents = 1
exact_match_entries = 1
[ledger]
documents = 2
entries = 1
dictionary_questions = 1
prompts = 1
noise_items = 2
intruder_layers = 1
[training]
micro_batch_tokens = 512
save_every_steps = 2
[stages.00]
epochs = 2
max_length = 64
batch_size = 3
[stages.01]
epochs = 1
batch_size = 3
[stages.02]
epochs = 2
max_samples = 3
batch_size = 2
learning_rate = 1e-2
[stages.02.replay]
plain_text = 0.2
dictionary = 0.2
[sources.embedded]
plain_text = ["{folder}/documents.jsonl"]
dictionary = ["{folder}/dictionary.jsonl"]
"""
DOCUMENTS, ENTRIES = 10, 4
# The commit too: the checkout may change while its tests run.
_TIMES = {"at", "seconds", "finished", "tokens_per_second", "peak_memory_bytes", "git_commit"}
_STEP_LINE = re.compile(r"step (\d+/\d+ loss \S+)")


def save_smallest(folder: Path) -> Path:
    """A model of two layers."""
    import torch

    from conftest import make_text_model, make_tokenizer  # conftest imports this module

    model = make_text_model(
        dtype=torch.float32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        layer_types=["sliding_attention", "full_attention"],
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Place:
    """A workspace that can be created again at the same path, which adapter_config.json contains."""

    root: Path
    weights: Path
    dropout: float = 0.1

    @property
    def model(self) -> Path:
        return self.root / "model"

    def renew(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        (self.model / "raw").mkdir(parents=True)
        entry = {"tiny": {"local_path": str(self.weights), "sources": "embedded"}}
        (self.model / "raw" / "model_paths.json").write_text(json.dumps(entry), encoding="utf-8")
        (self.root / "chain.toml").write_text(SMALLEST.format(folder=self.root, dropout=self.dropout), encoding="utf-8")
        texts = ({"text": f"환자 {i}: {'맥박 ' * (3 + i)}정상"} for i in range(DOCUMENTS))
        terms = ({"term": f"용어{i}", "definition": f"뜻 {i}", "english": f"term {i}"} for i in range(ENTRIES))
        for name, rows in (("documents", texts), ("dictionary", terms)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (self.root / f"{name}.jsonl").write_text(lines, encoding="utf-8")

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (*arguments, "--model", "tiny", "--workspace", str(self.root), "--config", str(self.root / "chain.toml"))


def outcome(place: Place) -> dict[str, Any]:
    """Everything that must not depend on interruptions: bytes of adapters and merged weights, the history and
    training_info.json without times, the logged steps, the remaining checkpoints, and no temporary files."""
    result: dict[str, Any] = {}
    for path in sorted(p for p in place.model.rglob("*") if p.is_file()):
        name = path.relative_to(place.model).as_posix()
        if "_training/" in name or name.startswith("."):
            continue
        if path.name in ("training_info.json", "kormedmcqa_validation_results.json", "merge_report.json"):
            result[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        else:
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for log in sorted(place.model.glob("*_training/*.log")):
        result[log.name] = _STEP_LINE.findall(log.read_text(encoding="utf-8"))
    result["checkpoints"] = sorted(
        p.relative_to(place.model).as_posix() for p in place.model.glob("*/*/checkpoint-*") if p.parent.name == "tiny"
    )
    result["leftovers"] = sorted(
        p.relative_to(place.model).as_posix() for end in ("partial", "replaced") for p in place.model.rglob(f".*.{end}")
    )
    result["lock"] = (place.model / ".lock-tiny").exists()
    return result


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in _TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def differences(actual: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries that are not equal, as (actual, expected)."""
    names = sorted(actual.keys() | expected.keys())
    return {name: (actual.get(name), expected.get(name)) for name in names if actual.get(name) != expected.get(name)}


@dataclass(frozen=True)
class Part:
    """One command of the chain without faults: the workspace before it, its outcome, and its events."""

    command: tuple[str, ...]
    before: Path
    expected: dict[str, Any]
    events: list[tuple[str, str]]


@dataclass(frozen=True)
class Undisturbed:
    """The chain without faults, command by command.

    A fault begins with the workspace before the command that it happens in, so that nothing is trained only to get
    there.
    """

    server: Server
    place: Place
    parts: list[Part]

    @property
    def expected(self) -> dict[str, Any]:
        """The outcome of the chain."""
        return self.parts[-1].expected

    @property
    def events(self) -> list[tuple[str, str]]:
        return [event for part in self.parts for event in part.events]

    def part(self, *command: str) -> Part:
        return next(part for part in self.parts if part.command == command)

    def restore(self, part: Part) -> None:
        """The workspace as it was before a command."""
        shutil.rmtree(self.place.root, ignore_errors=True)
        shutil.copytree(part.before, self.place.root)

    def run(self, *arguments: str, **options: Any) -> Done:
        return self.server.run(*self.place.command(*arguments), **options)

    def disturb(self, number: int, **options: Any) -> tuple[Part, Done]:
        """Runs the command in which event `number` (from 1) of the chain happens, with a fault at that event."""
        for part in self.parts:
            if number <= len(part.events):
                break
            number -= len(part.events)
        self.restore(part)
        return part, self.run(*part.command, at=number, **options)

    def finish(self, part: Part | None = None) -> Done:
        """Runs a command to its end, or without one the chain; the outcome must be that without faults."""
        done = self.run(*(part.command if part else ("run",)))
        assert done.code == 0, done.err
        different = differences(outcome(self.place), part.expected if part else self.expected)
        assert not different, f"{different}\n{done.err}"
        return done


COMMANDS = (("init",), ("train", "00"), ("train", "01"), ("train", "02"))
"""What `run` does in one process; the merge is part of `train 01`."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "output").mkdir()
    place = Place(folder / "workspace", save_smallest(folder / "weights"))
    with fault_server(folder / "output") as server:
        place.renew()
        parts = []
        for number, command in enumerate(COMMANDS):
            before = shutil.copytree(place.root, folder / f"before-{number}")
            done = server.run(*place.command(*command))
            assert done.code == 0, done.err
            parts.append(Part(command, before, outcome(place), done.events))
        yield Undisturbed(server, place, parts)


def kind(name: str, path: str) -> str:
    """The kind of work during which an event happens."""
    if name in ("optimizer step", "validate"):
        return name
    kinds = {
        "checkpoint-": "checkpoint",
        "01_another_lora_added": "merge",
        "_trained/": "final save",
        "unpublished": "final save",
        "/ledger/": "ledger",
        "run.json": "record",
    }
    return next((what for part, what in kinds.items() if part in path), "merge" if "tensor" in name else "other")
