"""Whether a step lost more than the chain file tolerates. Imports no torch.

A gate fails only where the loss is larger than tolerated and significant: the questions or documents themselves say
that it is not chance, after Holm's correction over all measures of the step, and it is larger than the measured noise.
"""

from collections.abc import Iterator, Mapping, Sequence

from lorachain.artifacts import Cell, Change, GateResult, Ledger, LedgerStep
from lorachain.artifacts.ledger import measure_label
from lorachain.chain.context import ChainContext
from lorachain.chain.ledger_steps import BASE
from lorachain.config import GateConfig
from lorachain.evaluation.ledger_statistics import relative_loss
from lorachain.evaluation.statistics import p_text
from lorachain.prompts import AnswerStyle

_BY_PROTOCOL = ("exam", "dictionary_exam")
"""Of these, a gate is for the protocol that the model is trained and selected by."""


def evaluate_gates(
    gates: Mapping[str, GateConfig], row: LedgerStep, ledger: Ledger, answer_style: AnswerStyle
) -> tuple[GateResult, ...]:
    """The result of every gate for the measures of a step that it is for; none for the base."""
    results = []
    for name, gate in gates.items():
        other_name = BASE if gate.against == "base" else str(row.parent)
        other = ledger.step(other_name)
        for measure in _measures_of(name, row, answer_style):
            cell = row.cell(measure)
            change = cell.against.get(gate.against) if cell else None
            reference = other.cell(measure) if other else None
            if cell is None or change is None or reference is None:
                why = "this step was not measured" if cell is None else f"{other_name} has no score of the same items"
                results.append(_result(measure, gate, None, None, "not evaluated", f"{measure_label(measure)}: {why}"))
                continue
            loss = relative_loss(cell, reference, gate.unit)
            failed = loss > gate.max_loss and change.verdict == "worse"
            summary = _summary(cell, reference, change, gate, loss, other_name)
            results.append(_result(measure, gate, loss, change.p_holm, "failed" if failed else "passed", summary))
    return tuple(results)


def failures(results: Sequence[GateResult], on_fail: str) -> list[GateResult]:
    return [result for result in results if result.outcome == "failed" and result.on_fail == on_fail]


def accepted(results: Sequence[GateResult]) -> tuple[GateResult, ...]:
    """The results with every failure that would stop the step accepted by the user."""
    return tuple(
        result.model_copy(update={"outcome": "accepted"})
        if result.outcome == "failed" and result.on_fail != "warn"
        else result
        for result in results
    )


def stop_message(context: ChainContext, step: str, command: str, stopped: Sequence[GateResult], kept: str) -> str:
    """What was lost, where the result is, and what can be done.

    Args:
        step: the step that is not published.
        command: the command that makes it.
        kept: what has become of its result.
    """
    lost = "; ".join(result.summary for result in stopped)
    keys = ", ".join(dict.fromkeys(f"gates.{_gate_name(result.measure, context)}.max_loss" for result in stopped))
    ways = [
        f"publish it all the same: {context.command(command)} --accept-harm",
        f"tolerate more: raise {keys} and run the same command again, which trains nothing again",
    ]
    if step not in ("merge", BASE):
        ways.append(f"apply less of it: {context.command(f'dial {step}')}")
        ways.append("train it with other settings or data, such as a lower --learning-rate or fewer --epochs")
    return f"step {step} is not published: {lost}. {kept} Next: " + "; or ".join(ways)


def _measures_of(name: str, row: LedgerStep, answer_style: AnswerStyle) -> Iterator[str]:
    if name in _BY_PROTOCOL:
        yield f"{name}_{answer_style}"
        return
    yield from [cell.measure for cell in row.cells if is_measure_of(name, cell.measure)] or [name]


def is_measure_of(name: str, measure: str) -> bool:
    """Whether a gate of this name is for the measure: its own name, or the beginning of the names of several."""
    return measure == name or measure.startswith(f"{name}_")


def _gate_name(measure: str, context: ChainContext) -> str:
    """The configured gate that a measure belongs to."""
    names: list[str] = sorted(context.config.gates, key=len, reverse=True)
    return next((name for name in names if is_measure_of(name, measure)), measure)


def _result(
    measure: str, gate: GateConfig, loss: float | None, p_holm: float | None, outcome: str, summary: str
) -> GateResult:
    return GateResult.model_validate(
        {
            "measure": measure,
            "against": gate.against,
            "tolerated": gate.max_loss,
            "unit": gate.unit,
            "loss": loss,
            "p_holm": p_holm,
            "on_fail": gate.on_fail,
            "outcome": outcome,
            "summary": summary,
        }
    )


def _summary(cell: Cell, reference: Cell, change: Change, gate: GateConfig, loss: float, other: str) -> str:
    """`exam dev, letters 41.2 % against 47.5 % of base: 6.3 points lost, 2 tolerated, p = 0.004, …`."""
    unit = "points" if gate.unit == "points" else "%"
    change_text = f"{abs(loss):.1f} {unit} {'lost' if loss > 0 else 'gained'}" if loss else "no difference"
    flips = "" if change.lost is None else f", {change.lost} lost and {change.gained} gained of {cell.n}"
    return (
        f"{measure_label(cell.measure)} {_value(cell)} against {_value(reference)} of {other}: {change_text}, "
        f"{gate.max_loss:g} tolerated, {p_text(change.p_holm)} after Holm's correction{flips}"
    )


def _value(cell: Cell) -> str:
    return f"{100 * cell.value:.1f} %" if cell.kind == "share" else f"{cell.value:.2f}"
