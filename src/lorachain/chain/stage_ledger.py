"""What a stage measures for the ledger while it runs, and whether its gates let it be published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lorachain.artifacts import GateResult, Ledger, LedgerStep
from lorachain.chain.context import ChainContext
from lorachain.chain.dial import apply_scale, largest_passing, open_dial
from lorachain.chain.gates import accepted, evaluate_gates, failures, stop_message
from lorachain.chain.ledger import LoadedModel, load_step, measure_step, read_ledger, record_gates
from lorachain.chain.ledger_data import LedgerData, load_ledger_data
from lorachain.chain.ledger_steps import BASE, Step, Stored, find_steps, recorded_context, step_name
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import Stage, parent_of
from lorachain.chain.tasks.base import StageTask
from lorachain.errors import GateError
from lorachain.memory import release
from lorachain.prompts import PROMPT_VERSION
from lorachain.tokens import TokenEncoder


@dataclass(slots=True)
class StageLedger:
    """The ledger while a stage runs. Only the main process has one.

    A sharded model computes in all processes, so that nothing is scored of it here: the ledger then has what the
    stage's own validations say, and `lorachain ledger --measure` adds the rest.
    """

    context: ChainContext
    runtime: Runtime
    stage: Stage
    base: Path
    """Of the stage's parent."""
    encoder: TokenEncoder
    task: StageTask | None = None
    """The stage's own data, loaded already."""
    data: LedgerData | None = None

    @property
    def is_used(self) -> bool:
        return self.context.config.ledger.measure or bool(self.context.config.gates)

    @property
    def scores(self) -> bool:
        """Whether models are scored, not only what was scored already copied."""
        return self.context.config.ledger.measure and not self.runtime.processes.sharded

    def measure_earlier(self) -> None:
        """Measures what is missing of the base and the parent before the stage's own model is loaded.

        A training stage's parent is left for `measure_parent`, as its model will be in memory anyway.
        """
        if not self.is_used:
            return
        parent = step_name(parent_of(self.stage))
        wanted = {BASE, parent} - ({parent} if self.stage.kind == "training" else set())
        for step in self._steps():
            if step.name in wanted:
                self._measure(step, self._loading(step))
                release()

    def measure_parent(self, model: nn.Module | None, stored: Stored) -> None:
        """Measures the stage's parent by its model in memory, or loads it.

        Args:
            stored: what the stage scored of its parent.
        """
        if not self.is_used:
            return
        name = step_name(parent_of(self.stage))
        step = next((step for step in self._steps() if step.name == name), None)
        if step is None:
            return
        if not self._held_alike(step):  # in another type than when the parent was trained: another model
            self._measure(step, self._loading(step))
            return
        step.stored.measures |= stored.measures
        step.stored.validation = stored.validation or step.stored.validation
        self._measure(step, self._loading(step, model))

    def exam_answers(self, data_sha256: str) -> dict[str, str] | None:
        """The letters that the stage's parent chose by each protocol; None where the ledger lacks these questions."""
        step = next((step for step in self._steps() if step.name == step_name(parent_of(self.stage))), None)
        row = read_ledger(self.context).step(step.name) if step else None
        if step is None or row is None or row.model != step.model or not self._held_alike(step):
            return None
        cells = {protocol: row.cell(f"exam_{protocol}") for protocol in ("letters", "options")}
        asked = (data_sha256, PROMPT_VERSION)
        same = {name: cell for name, cell in cells.items() if cell and (cell.data_sha256, cell.prompt_version) == asked}
        return {name: str(cell.detail["chosen"]) for name, cell in same.items()} if len(same) == len(cells) else None

    def check(self, unpublished: Path, model: nn.Module | None, kept: str) -> None:
        """Measures the stage's result and evaluates its gates.

        Args:
            unpublished: its output directory, not in its place yet.
            model: the result in memory; None: it is loaded where something has to be scored.
            kept: what becomes of the result if a gate stops it, for the message.

        Raises:
            GateError: a gate stopped the step and the harm was not accepted.
        """
        if not self.is_used:
            return
        steps = self._steps({self.stage.name: unpublished})
        step = next(step for step in steps if step.name == self.stage.name)
        row = self._measure(step, self._loading(step, model))
        results = self.decide(row, read_ledger(self.context), kept)
        if failures(results, "dial"):
            self._dial(model)

    def decide(self, row: LedgerStep, ledger: Ledger, kept: str) -> tuple[GateResult, ...]:
        """Evaluates the gates of a measured row, records the results, and reports them. Raises as `check`."""
        context = self.context
        results = evaluate_gates(context.config.gates, row, ledger, context.entry.answer_style)
        if context.accept_harm:
            results = accepted(results)
        record_gates(context, row.name, results)
        for result in results:
            if result.outcome != "passed" and (result.outcome != "failed" or result.on_fail == "warn"):
                context.reporter.message(f"gate of step {row.name}, {result.outcome}: {result.summary}")
        stopped = failures(results, "stop")
        if self.stage.kind == "merge":  # it has no adapter to scale
            stopped += failures(results, "dial")
        if stopped:
            raise GateError(stop_message(context, row.name, self.stage.command, stopped, kept))
        return results

    def _dial(self, model: nn.Module | None) -> None:
        """Scales the result by the largest scale that passes the gates. Raises GateError where none does."""
        context = self._recorded()
        dial = open_dial(context, self.stage, "uniform", self._data(), lambda step: self._loading(step, model)())
        point = largest_passing(dial, gated_only=True)
        apply_scale(dial, point.scale)
        context.reporter.message(
            f"stage {self.stage.name} is scaled by {point.scale:g}, the largest scale that passes the gates; what each "
            f"scale scores: {dial.path}"
        )

    def _held_alike(self, step: Step) -> bool:
        """Whether this run holds its base in the type that the step's model is held in."""
        config = self.context.config
        return (step.model.quantization, step.model.dtype) == (config.quantization, config.dtype)

    def _loading(self, step: Step, model: nn.Module | None = None) -> Callable[[], LoadedModel]:
        """Gives a step's model: the one in memory, or else loaded when it is called."""
        return lambda: (model, self.encoder) if model is not None else load_step(self.runtime, step, self.encoder)

    def _steps(self, unpublished: Mapping[str, Path] | None = None) -> list[Step]:
        return find_steps(self._recorded(), unpublished)

    def _recorded(self) -> ChainContext:
        return recorded_context(self.context, running=self.stage.name)

    def _measure(self, step: Step, load: Callable[[], LoadedModel]) -> LedgerStep:
        return measure_step(self._recorded(), step, self._data(), load, only_stored=not self.scores)

    def _data(self) -> LedgerData:
        if self.data is None:
            given = {str(self.stage.source): self.task} if self.task is not None else {}
            self.data = load_ledger_data(self._recorded(), self.base, self.encoder, given)
        return self.data
