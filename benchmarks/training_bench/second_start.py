"""How long a stage takes from after the imports until its first step is ready to run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lorachain.chain.init_step import initialize
from lorachain.chain.stage import StageRun

from lorachain.chain.context import Bar, ChainContext
from lorachain.config import load_config
from lorachain.registry import ModelEntry
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.weights.load import load_model
from lorachain.weights.lora import load_adapter
from lorachain.workspace import Workspace


class _Quiet:
    """A reporter without output."""

    def message(self, text: str) -> None: ...

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        yield lambda done, words="": None


def _context(workspace: Path, model: str, source: str | None) -> ChainContext:
    overrides = {"sources": {"embedded": {"plain_text": [source]}}} if source else {}
    return ChainContext(
        Workspace(workspace),
        "bench",
        ModelEntry(local_path=Path(model), sources="embedded"),
        load_config(overrides=overrides),
        torch.device("cpu"),
        _Quiet(),
    )


def start_stage_00(workspace: Path, model: str, source: str | None) -> float:
    """Seconds to read the sources, load base and adapter, and build the first batch.

    The first call creates the workspace.
    """
    context = _context(workspace, model, source)
    if not context.workspace.raw_lora_added(context.model).exists():
        initialize(context)
    start = time.perf_counter()
    run = StageRun(context, "00")
    load_adapter(load_model(run.parent.base, context.device, context.dtype), run.parent.folder, trainable=True)
    settings = context.stage("00")
    schedule = BatchSchedule(
        run.task.packs_of_epoch,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch_tokens=context.config.training.micro_batch_tokens,
        pad_id=run.encoder.pad_id,
        seed=context.config.seed,
    )
    schedule[0]
    return time.perf_counter() - start
