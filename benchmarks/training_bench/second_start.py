"""How long a stage takes from after the imports until its first step is ready to run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorachain.chain.context import Bar, ChainContext, load_config
from lorachain.chain.init_stage import initialize
from lorachain.chain.runtime import start_runtime
from lorachain.chain.stages import find_stage
from lorachain.chain.train_stage import load_inputs, load_trainable_model
from lorachain.registry import ModelEntry
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.workspace import Workspace


class _Quiet:
    """A reporter without output."""

    def message(self, text: str) -> None: ...

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        yield lambda done, note="": None


def _context(workspace: Path, model: str, source: str | None) -> ChainContext:
    overrides = [{"sources": {"embedded": {"plain_text": [source]}}}] if source else []
    return ChainContext(
        Workspace(workspace),
        "bench",
        ModelEntry(local_path=Path(model), sources="embedded"),
        load_config(overrides=[{"device": "cpu"}, *overrides]),
        _Quiet(),
    )


def start_stage_00(workspace: Path, model: str, source: str | None) -> float:
    """Seconds to read the sources, load base and adapter, and build the first batch.

    The first call creates the workspace.
    """
    context = _context(workspace, model, source)
    init, stage = find_stage("init"), find_stage("00")
    if not context.output(init).exists():
        initialize(context, init)
    start = time.perf_counter()
    runtime = start_runtime(context.config)
    inputs = load_inputs(context, runtime, stage)
    load_trainable_model(context, runtime, inputs.parent)
    settings = context.config.stages[stage.name]
    schedule = BatchSchedule(
        inputs.task.packs_of_epoch,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        micro_batch_tokens=context.config.training.micro_batch_tokens,
        pad_id=inputs.encoder.pad_id,
        seed=context.config.seed,
    )
    schedule[0]
    return time.perf_counter() - start
