"""`lorachain dial`: a stage's adapter at several scales, and the largest that passes the gates applied."""

from collections.abc import Sequence
from functools import partial

from lorachain.artifacts import DialReport, Ledger
from lorachain.atomic import move_folder
from lorachain.chain.context import ChainContext
from lorachain.chain.dial import (
    Dial,
    adapter_folder,
    apply_scale,
    check_scales,
    largest_passing,
    measure_scale,
    open_dial,
)
from lorachain.chain.ledger import load_step, measure_step, read_ledger
from lorachain.chain.ledger_data import load_ledger_data
from lorachain.chain.ledger_steps import BASE, find_steps, step_name
from lorachain.chain.runtime import Runtime
from lorachain.chain.stages import Stage
from lorachain.memory import release
from lorachain.tokens import TokenEncoder
from lorachain.weights.dial import Variant
from lorachain.weights.load import load_tokenizer


def dial_stage(
    context: ChainContext,
    runtime: Runtime,
    stage: Stage,
    scales: Sequence[float],
    *,
    variant: Variant = "uniform",
    apply: bool = False,
) -> tuple[DialReport, Ledger, float | None]:
    """Measures a stage's adapter at every scale, and with `apply` applies the largest that passes the gates.

    Returns:
        The report, the ledger with the adapter as it was trained, and the scale that was applied.

    Raises:
        ConfigError: a scale is out of range. WorkspaceError: the stage has no adapter, or it was scaled already.
        GateError: with `apply`, no scale passes the gates; nothing is changed.
    """
    chosen = check_scales(scales)
    dial = _open(context, runtime, stage, variant)
    for scale in chosen:
        measure_scale(dial, scale)
    ledger = read_ledger(context)
    if not apply:
        return dial.report, ledger, None
    point = largest_passing(dial, chosen)
    apply_scale(dial, point.scale)
    if dial.folder != context.output(stage):
        move_folder(dial.folder, context.output(stage))
    return dial.report, ledger, point.scale


def _open(context: ChainContext, runtime: Runtime, stage: Stage, variant: Variant) -> Dial:
    """The dial, once the steps that its scales are compared with are measured."""
    steps = find_steps(context, {stage.name: adapter_folder(context, stage)})
    encoder = TokenEncoder(load_tokenizer(steps[0].base))
    data = load_ledger_data(context, steps[0].base, encoder)
    own = next(step for step in steps if step.name == step_name(stage))
    for step in steps:
        if step.name in (BASE, own.parent, own.name):
            measure_step(context, step, data, partial(load_step, runtime, step, encoder))
            release()
    return open_dial(context, stage, variant, data, lambda step: load_step(runtime, step, encoder))
