"""A workspace whose model is a tiny one in a local folder, and a chain small enough to run in seconds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = """
dtype = "float32"
[lora]
rank = 4
alpha = 8
[validation]
max_questions = 10
heldout_documents = 2
recall_entries = 6
[training]
micro_batch_tokens = 2048
[stages.00]
max_length = 128
batch_size = 4
max_samples = 20
[stages.01]
epochs = 2
max_samples = 20
[stages.02]
epochs = 2
max_samples = 16
learning_rate = 1e-3
"""


@pytest.fixture
def tiny_workspace(tmp_path: Path, save_tiny: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a workspace that knows the model `tiny`; `chain.toml` in it is the small chain."""

    def make(kind: str = "text", *, name: str = "workspace", chat: bool = False, **entry: object) -> Path:
        root = tmp_path / name
        weights = tmp_path / f"tiny-{kind}-0"
        if not weights.exists():
            save_tiny(kind, chat=chat)
        (root / "model" / "raw").mkdir(parents=True)
        values = {"tiny": {"local_path": str(weights), "sources": "embedded", **entry}}
        (root / "model" / "raw" / "model_paths.json").write_text(json.dumps(values), encoding="utf-8")
        (root / "chain.toml").write_text(SMALL, encoding="utf-8")
        return root

    return make


@pytest.fixture
def lorachain(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from lorachain.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
