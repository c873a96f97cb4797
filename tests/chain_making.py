"""Fixtures for workspaces with a tiny local model, and for a chain that runs in seconds.

A module of its own, imported by the root conftest: a second conftest.py would shadow the first in
`from conftest import ...` (tests/ has no packages).
"""

import contextlib
import functools
import gc
import importlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL = """
dtype = "float32"
[lora]
rank = 4
alpha = 8
[validation]
max_questions = 10
heldout_documents = 2
exact_match_entries = 6
[ledger]
documents = 4
entries = 6
dictionary_questions = 4
prompts = 2
noise_items = 2
intruder_layers = 1
[training]
micro_batch_tokens = 2048
[stages.00]
max_length = 128
batch_size = 4
max_samples = 20
[stages.01]
epochs = 2
max_samples = 20
replay = { plain_text = 0.0 }
[stages.02]
epochs = 2
max_samples = 16
learning_rate = 1e-3
replay = { dictionary = 0.0 }
"""


TWO_LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
"""A model of one layer of each kind: enough for what a chain does, in half the time."""


@functools.cache
def freeze_libraries() -> None:
    """Imports what stages import, once, and leaves it out of garbage collection: before it loads a model a stage
    collects, which took a fifth of a tiny chain's time."""
    importlib.import_module("lorachain.chain.pipeline")
    gc.collect()
    gc.freeze()


def run_command_line(*arguments: object) -> tuple[int, str, str]:
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from lorachain.cli import main

    freeze_libraries()
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return code, out.getvalue(), err.getvalue()


def make_workspace(root: Path, weights: Path, *, measured: bool = True, **entry: object) -> Path:
    """A workspace with the model `tiny` in model_paths.json; its `chain.toml` configures the small chain.

    Without `measured` its stages do not measure themselves for the ledger, which costs more than to train them.
    """
    (root / "model" / "raw").mkdir(parents=True)
    values = {"tiny": {"local_path": str(weights), "sources": "embedded", **entry}}
    (root / "model" / "raw" / "model_paths.json").write_text(json.dumps(values), encoding="utf-8")
    (root / "chain.toml").write_text(SMALL, encoding="utf-8")
    return root if measured else unmeasured(root)


def unmeasured(root: Path) -> Path:
    """The workspace, whose stages do not measure themselves for the ledger any more."""
    settings = root / "chain.toml"
    text = settings.read_text(encoding="utf-8").replace("[ledger]\n", "[ledger]\nmeasure = false\n")
    settings.write_text(text, encoding="utf-8")
    return root


def options_of(root: Path) -> tuple[str, ...]:
    """Options of every command of the small chain."""
    return ("--model", "tiny", "--workspace", str(root), "--config", str(root / "chain.toml"))


@pytest.fixture
def tiny_workspace(tmp_path: Path, save_tiny: Callable[..., Path]) -> Callable[..., Path]:
    def make(kind: str = "text", *, name: str = "workspace", chat: bool = False, **entry: Any) -> Path:
        weights = tmp_path / f"tiny-{kind}-0"
        if not weights.exists():
            save_tiny(kind, chat=chat, **TWO_LAYERS)
        return make_workspace(tmp_path / name, weights, **entry)

    return make


@pytest.fixture
def lorachain() -> Callable[..., tuple[int, str, str]]:
    return run_command_line


@dataclass(frozen=True)
class FinishedChain:
    """A finished chain: its workspace (read only) and the output of `lorachain run`."""

    kind: str
    root: Path
    base: Path
    out: str
    err: str

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def options(self) -> tuple[str, ...]:
        return options_of(self.root)


@pytest.fixture(scope="session")
def finished_chain(
    tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]
) -> Callable[..., FinishedChain]:
    """The small chain, run once per session and class of model: text without a chat template, multimodal with one."""
    chains: dict[str, FinishedChain] = {}

    def finished(kind: str = "text") -> FinishedChain:
        if kind not in chains:
            parent = tmp_path_factory.mktemp(f"finished-{kind}")
            base = save_tiny_in(parent, kind, chat=kind == "multimodal", **TWO_LAYERS)
            root = make_workspace(parent / "workspace", base)
            code, out, err = run_command_line("run", *options_of(root))
            assert code == 0, err
            chains[kind] = FinishedChain(kind, root, base, out, err)
        return chains[kind]

    return finished


@pytest.fixture
def finished_copy(tmp_path: Path, finished_chain: Callable[..., FinishedChain]) -> Path:
    """A copy of the finished text chain; tests may change it."""
    return shutil.copytree(finished_chain("text").root, tmp_path / "copy")


@pytest.fixture
def root(tiny_workspace: Callable[..., Path]) -> Path:
    """A workspace without any stage."""
    return tiny_workspace()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> Path:
    """A workspace with raw_lora_added, to be copied (see `started`)."""
    parent = tmp_path_factory.mktemp("begun")
    root = make_workspace(parent / "workspace", save_tiny_in(parent, **TWO_LAYERS))
    code, _, err = run_command_line("init", *options_of(root))
    assert code == 0, err
    return root


@pytest.fixture
def started(begun: Path, tmp_path: Path) -> Path:
    """A workspace with raw_lora_added; tests may change it."""
    return shutil.copytree(begun, tmp_path / "started")
