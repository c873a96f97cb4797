"""Measures the steps of a chain for `ledger.json`, cell by cell; an interrupted ledger resumes.

A cell is measured again only where its step's weights, its items or the version of its measure changed. The file has no
times, and each job is computed from its items alone, so that a ledger that was killed ends with the same bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lorachain.artifacts import Cell, GateResult, Ledger, LedgerStep
from lorachain.artifacts.ledger import Reference
from lorachain.chain.context import ChainContext
from lorachain.chain.hidden_states import HiddenStates
from lorachain.chain.ledger_data import LedgerData, load_ledger_data
from lorachain.chain.ledger_jobs import Job, Subject, jobs
from lorachain.chain.ledger_steps import BASE, Step, find_steps, step_names
from lorachain.chain.runtime import DTYPES, Runtime
from lorachain.errors import WorkspaceError
from lorachain.evaluation.ledger_statistics import changes, measured_noise
from lorachain.memory import release
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_model, load_tokenizer
from lorachain.weights.lora import load_adapter

OTHER_TOKEN_BUDGET = 256
"""Of the second scoring, which measures the noise: batches of one or a few sequences."""
LoadedModel = tuple[nn.Module, TokenEncoder]


def read_ledger(context: ChainContext) -> Ledger:
    """The ledger as it is on disk, or an empty one.

    Raises:
        WorkspaceError: it is damaged.
    """
    path = context.workspace.ledger(context.model)
    if path.exists():
        return Ledger.read(path)
    return Ledger(model=context.model, settings=context.config.ledger.model_dump(mode="json"))


def measure_chain(context: ChainContext, runtime: Runtime) -> Ledger:
    """Measures what is missing of every step that is there, each loaded at most once; returns the ledger.

    Raises:
        WorkspaceError: there is no step yet, or a file is damaged. ModelError, AdapterError: a model cannot be loaded.
    """
    steps = find_steps(context)
    if not steps:
        raise WorkspaceError(
            f"there is nothing of {context.model} in {context.workspace.root} to measure; create it with: "
            f"{context.command('run')}"
        )
    encoder = TokenEncoder(load_tokenizer(steps[0].base))
    data = load_ledger_data(context, steps[0].base, encoder)
    for step in steps:
        measure_step(context, step, data, partial(load_step, runtime, step, encoder))
        release()
    return read_ledger(context)


def load_step(runtime: Runtime, step: Step, encoder: TokenEncoder) -> LoadedModel:
    """A step's model, held as it was trained. Every step of a chain has the same tokenizer."""
    dtype = DTYPES.get(step.model.dtype, runtime.dtype)
    model = load_model(step.base, runtime.device, dtype, step.model.quantization)
    return (load_adapter(model, step.adapter, trainable=False) if step.adapter else model), encoder


def measure_step(
    context: ChainContext,
    step: Step,
    data: LedgerData,
    load: Callable[[], LoadedModel],
    *,
    only_stored: bool = False,
) -> LedgerStep:
    """Measures what is missing of one step, writing the ledger after each job; returns the step's row.

    Args:
        load: gives the model; called only where something has to be scored.
        only_stored: score nothing, and copy only what the chain's stages scored already.
    """
    planned = list(jobs(data, intruder_layers=context.config.ledger.intruder_layers))
    if step.adapter is None:
        planned = [job for job in planned if not job.of_adapters_only]
    states = HiddenStates(context, step, base_model=_base_model(context, step))
    written = _open_row(context, step)
    pending = [job for job in planned if not job.is_scored_in(written.row) or not states.ready(job)]
    # A row that has every cell: the first items of each are scored again.
    noise = jobs(data.first(context.config.ledger.noise_items), intruder_layers=0) if step.name == BASE else ()
    pending_noise = [job for job in noise if job.has_noise and not written.has_noise(job)]
    if only_stored:
        pending, pending_noise = [job for job in pending if job.reuse(step.stored)], []
    lazy = _Lazy(load)

    def subject(token_budget: int) -> Subject:
        model, encoder = lazy.loaded()

        def hidden_states(digest: str, prompts: Sequence[Sequence[int]]) -> list[Tensor] | None:
            return states.of_base(digest, prompts, model, token_budget)

        return Subject(model, encoder, token_budget, step.base, step.adapter, hidden_states)

    budget = context.config.validation.token_budget
    total = len(pending) + len(pending_noise)
    with context.reporter.bar(f"ledger, {step.name}", total) as bar:
        for number, job in enumerate(pending, start=1):
            if not states.available(job):
                context.reporter.message(
                    f"ledger: {', '.join(job.measures)} of {step.name} is left out, because the base was not measured; "
                    f"measure it with: {context.command('ledger --measure')}"
                )
                continue
            written.put(job.reuse(step.stored) or job.score(subject(budget)), planned)
            bar(number, job.measures[0])
        for number, job in enumerate(pending_noise, start=len(pending) + 1):
            written.put_noise(job.score(subject(OTHER_TOKEN_BUDGET)))
            bar(number, f"noise of {job.measures[0]}")
    return written.finish()


@dataclass(slots=True)
class _Lazy:
    """A model that is loaded when it is first needed."""

    load: Callable[[], LoadedModel]
    model: LoadedModel | None = None

    def loaded(self) -> LoadedModel:
        if self.model is None:
            self.model = self.load()
        return self.model


def record_gates(context: ChainContext, step: str, results: tuple[GateResult, ...]) -> None:
    """Writes what the gates decided about a step into its row."""
    ledger = read_ledger(context)
    rows = tuple(row.model_copy(update={"gates": results}) if row.name == step else row for row in ledger.steps)
    gates = {name: gate.model_dump(mode="json") for name, gate in context.config.gates.items()}
    ledger.model_copy(update={"steps": rows, "gates": gates}).write(context.workspace.ledger(context.model))


def put_row(context: ChainContext, row: LedgerStep) -> None:
    """Replaces a step's row, and compares every row again that is compared with it."""
    ledger = with_row(read_ledger(context), row)
    compared_again(ledger, row.name).write(context.workspace.ledger(context.model))


def with_row(ledger: Ledger, row: LedgerStep) -> Ledger:
    """The ledger with this row, in the order of the steps."""
    rows = {other.name: other for other in ledger.steps} | {row.name: row}
    return ledger.model_copy(update={"steps": tuple(rows[name] for name in step_names() if name in rows)})


def compared_again(ledger: Ledger, name: str) -> Ledger:
    """The ledger with the row `name`, and every row that is compared with it, compared again."""
    for row in ledger.steps:
        if name in (row.name, row.parent, BASE):
            ledger = with_row(ledger, compared(row, ledger))
    return ledger


def with_cells(row: LedgerStep, cells: Iterable[Cell]) -> LedgerStep:
    """The row with these cells in place of older ones of the same measures."""
    by_measure = {cell.measure: cell for cell in (*row.cells, *cells)}
    return row.model_copy(update={"cells": tuple(by_measure.values())})


@dataclass(slots=True)
class _RowOnDisk:
    """One step's row in the ledger on disk, which is replaced as a whole after each change."""

    path: Path
    ledger: Ledger
    row: LedgerStep

    def has_noise(self, job: Job) -> bool:
        noise = [self.ledger.noise.get(measure) for measure in job.measures]
        return all(one and job.is_of(one) for one in noise)

    def put(self, cells: Iterable[Cell], planned: Sequence[Job]) -> None:
        """Adds cells in place of older ones of the same measures; the row's comparisons are made in the end."""
        order = {measure: i for i, measure in enumerate(measure for job in planned for measure in job.measures)}
        ordered = sorted(
            with_cells(self.row, cells).cells, key=lambda cell: (order.get(cell.measure, len(order)), cell.measure)
        )
        uncompared = tuple(cell.model_copy(update={"against": {}}) for cell in ordered)
        self.row = self.row.model_copy(update={"cells": uncompared})
        self._write()

    def put_noise(self, again: Iterable[Cell]) -> None:
        """Adds the noise from a second scoring of the first items of this row's cells."""
        cells = {cell.measure: cell for cell in self.row.cells}
        noise = {one.measure: measured_noise(cells[one.measure], one) for one in again}
        merged = dict(sorted({**self.ledger.noise, **noise}.items()))
        self.ledger = self.ledger.model_copy(update={"noise": merged})
        self._write()

    def finish(self) -> LedgerStep:
        """Compares the row with its parent and the base, and again every row that is compared with it."""
        self.ledger = compared_again(with_row(self.ledger, self.row), self.row.name)
        self.ledger.write(self.path)
        return self.ledger.step(self.row.name) or self.row

    def _write(self) -> None:
        self.ledger = with_row(self.ledger, self.row)
        self.ledger.write(self.path)


def _open_row(context: ChainContext, step: Step) -> _RowOnDisk:
    """The step's row with what is measured of this very model."""
    stored = read_ledger(context)
    row = stored.step(step.name)
    if row is None or row.model != step.model or row.parent != step.parent:
        row = LedgerStep(name=step.name, parent=step.parent, model=step.model)
    settings = context.config.ledger.model_dump(mode="json")
    return _RowOnDisk(context.workspace.ledger(context.model), stored.model_copy(update={"settings": settings}), row)


def compared(row: LedgerStep, ledger: Ledger) -> LedgerStep:
    """The row with every cell against its parent and the base, where those have the same items."""
    against: dict[Reference, LedgerStep | None] = {
        "parent": ledger.step(row.parent) if row.parent else None,
        "base": ledger.step(BASE) if row.name != BASE else None,
    }
    made = {name: changes(row.cells, other.cells, ledger.noise) for name, other in against.items() if other}
    cells = tuple(
        cell.model_copy(update={"against": {name: of[cell.measure] for name, of in made.items() if cell.measure in of}})
        for cell in row.cells
    )
    return row.model_copy(update={"cells": cells})


def _base_model(context: ChainContext, step: Step) -> LedgerStep | None:
    return None if step.name == BASE else read_ledger(context).step(BASE)
