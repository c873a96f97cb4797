"""What a stage measures for the ledger, of which models, and what its gates decide; nothing is scored."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from artifact_making import HASH, exam_cell, ledger_step
from lorachain.artifacts import Cell, Ledger, StepModel
from lorachain.chain import stage_ledger
from lorachain.chain.ledger import compared_again, with_row
from lorachain.chain.ledger_steps import Step, Stored
from lorachain.chain.runtime import Runtime
from lorachain.chain.stage_ledger import StageLedger
from lorachain.chain.stages import find_stage
from lorachain.errors import GateError
from lorachain.processes import Processes
from stage_making import make_context, measure_of, messages_of, noted, validation

PARENTS = {"base": None, "00": "base", "01": "00", "merge": "01", "02": "merge"}
WITHOUT_GATES = "gates={}"
"""Not a setting of the command line: the default configuration has a gate."""
GATES = ("gates.exam.max_loss=2", 'gates.exam.on_fail="{on_fail}"')


def step_of(name: str, dtype: str = "bfloat16", quantization: Any = "none") -> Step:
    adapter = None if name in ("base", "merge") else Path(name)
    model = StepModel(
        base_sha256=HASH, adapter_sha256=HASH if adapter else None, quantization=quantization, dtype=dtype
    )
    return Step(name, PARENTS[name], Path("base"), adapter, model, Stored())


@dataclass
class Measured:
    """The steps that were measured, each with the model that it was given."""

    steps: list[str] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    only_stored: list[bool] = field(default_factory=list)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    kept = Measured()

    def measure_step(context: Any, step: Step, data: Any, load: Any, *, only_stored: bool) -> Any:
        assert data == "data"
        kept.steps.append(step.name)
        kept.models.append(load())
        kept.stored.append(step.stored)
        kept.only_stored.append(only_stored)
        return ledger_step(step.name, step.parent)

    monkeypatch.setattr(stage_ledger, "measure_step", measure_step)
    monkeypatch.setattr(stage_ledger, "release", lambda: None)
    monkeypatch.setattr(stage_ledger, "load_step", lambda runtime, step, encoder: f"loaded {step.name}")
    return kept


def make_ledger(tmp_path: Path, stage: str, *settings: str, sharded: bool = False, **options: Any) -> StageLedger:
    context = make_context(tmp_path, *(setting for setting in settings if setting != WITHOUT_GATES), **options)
    if WITHOUT_GATES in settings:
        context = replace(context, config=context.config.model_copy(update={"gates": {}}))
    processes = Processes(sharded=sharded)
    runtime, encoder, data = Runtime(torch.device("cpu"), torch.float32, processes), "encoder", "data"
    return StageLedger(context, runtime, find_stage(stage), Path("base"), cast(Any, encoder), data=cast(Any, data))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that are there."""
    steps = [step_of(name) for name in PARENTS]
    monkeypatch.setattr(stage_ledger, "find_steps", lambda context, unpublished=None: steps)
    return steps


# ---- whether anything is measured ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sharded", "is_used", "scores"),
    [
        (("ledger.measure=true",), False, True, True),
        (("ledger.measure=true",), True, True, False),
        (("ledger.measure=false",), False, True, False),
        (("ledger.measure=false", WITHOUT_GATES), False, False, False),
        (("ledger.measure=true", WITHOUT_GATES), False, True, True),
    ],
)
def test_a_ledger_is_used_where_it_is_measured_or_gated(
    tmp_path: Path, settings: tuple[str, ...], sharded: bool, is_used: bool, scores: bool
) -> None:
    ledger = make_ledger(tmp_path, "01", *settings, sharded=sharded)
    assert (ledger.is_used, ledger.scores) == (is_used, scores)


def test_without_a_ledger_nothing_is_measured(tmp_path: Path, there: list[Step], measured: Measured) -> None:
    ledger = make_ledger(tmp_path, "01", "ledger.measure=false", WITHOUT_GATES)
    ledger.measure_earlier()
    ledger.measure_parent("model", Stored())  # type: ignore[arg-type]
    ledger.check(tmp_path, None, "kept")
    assert measured.steps == []


# ---- which steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "steps"), [("00", []), ("01", ["base"]), ("02", ["base"]), ("merge", ["base", "01"])]
)
def test_the_base_and_the_parent_are_measured_first(
    tmp_path: Path, there: list[Step], measured: Measured, stage: str, steps: list[str]
) -> None:
    """A training stage's parent waits until the stage has its model in memory."""
    make_ledger(tmp_path, stage, "ledger.measure=true").measure_earlier()
    assert measured.steps == steps
    assert measured.models == [f"loaded {name}" for name in steps]
    assert measured.only_stored == [False] * len(steps)


@pytest.mark.parametrize(
    ("held", "model"),
    [
        ({}, ("model", "encoder")),
        ({"dtype": "float32"}, "loaded 00"),
        ({"quantization": "nf4"}, "loaded 00"),
    ],
)
def test_the_parent_is_measured_by_the_model_in_memory_where_it_is_held_alike(
    tmp_path: Path, there: list[Step], measured: Measured, held: dict[str, Any], model: Any
) -> None:
    there[1] = step_of("00", **held)
    there[1].stored.measures["old"] = measure_of(0.1)
    ledger = make_ledger(tmp_path, "01", "ledger.measure=true")
    stored = Stored(validation(3), {"new": measure_of(0.2)})
    ledger.measure_parent(cast(Any, "model"), stored)
    assert (measured.steps, measured.models) == (["00"], [model])
    (given,) = measured.stored
    alike = not held
    assert given.measures.keys() == ({"old", "new"} if alike else {"old"})
    assert given.validation == (validation(3) if alike else None)


def test_a_validation_that_was_stored_is_kept_where_the_stage_has_none(
    tmp_path: Path, there: list[Step], measured: Measured
) -> None:
    there[1].stored.validation = validation(5)
    ledger = make_ledger(tmp_path, "01", "ledger.measure=true")
    ledger.measure_parent(None, Stored())
    assert measured.stored[0].validation == validation(5)
    assert measured.models == ["loaded 00"]
    ledger.measure_parent(None, Stored(validation(6)))
    assert measured.stored[1].validation == validation(6)


def test_a_parent_that_is_gone_is_not_measured(tmp_path: Path, there: list[Step], measured: Measured) -> None:
    there.pop(1)
    make_ledger(tmp_path, "01", "ledger.measure=true").measure_parent(cast(Any, "model"), Stored())
    assert measured.steps == []


# ---- answers of the parent -------------------------------------------------------------------------------------------


def answered(measure: str, chosen: str, data_sha256: str = HASH) -> Cell:
    return exam_cell("1100", measure).model_copy(update={"data_sha256": data_sha256, "detail": {"chosen": chosen}})


def test_the_letters_that_the_parent_chose(tmp_path: Path, there: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (answered("exam_letters", "AABB"), answered("exam_options", "BABA"))
    row = ledger_step("00", "base", *cells).model_copy(update={"model": there[1].model})
    rows = [row, ledger_step("01", "00")]
    monkeypatch.setattr(
        stage_ledger, "read_ledger", lambda context: Ledger(model="tiny", settings={}, steps=tuple(rows))
    )
    ledger = make_ledger(tmp_path, "01", "ledger.measure=true")
    assert ledger.exam_answers(HASH) == {"letters": "AABB", "options": "BABA"}
    assert ledger.exam_answers("cd" * 32) is None
    other_items = answered("exam_options", "BABA", "cd" * 32)
    for changed in ({"cells": cells[:1]}, {"cells": cells[1:]}, {"cells": (cells[0], other_items)}):
        rows[0] = row.model_copy(update=changed)
        assert ledger.exam_answers(HASH) is None, changed
    rows[0] = row.model_copy(update={"model": row.model.model_copy(update={"adapter_sha256": "ef" * 32})})
    assert ledger.exam_answers(HASH) is None
    rows[0] = row
    there[1] = step_of("00", dtype="float32")
    rows[0] = row.model_copy(update={"model": there[1].model})
    assert ledger.exam_answers(HASH) is None  # the same model as the row's, but not as this run holds it
    del rows[0]
    assert ledger.exam_answers(HASH) is None
    there.pop(1)
    assert ledger.exam_answers(HASH) is None


# ---- gates -----------------------------------------------------------------------------------------------------------


def gated_rows(after: str = "0" * 30 + "1" * 10) -> Ledger:
    """The base, and two steps that lost most of what the base answers."""
    ledger = Ledger(model="tiny", settings={})
    base, tuned = exam_cell("1" * 40, "exam_options"), exam_cell(after, "exam_options")
    for row in (ledger_step("base", None, base), ledger_step("01", "base", tuned), ledger_step("merge", "01", tuned)):
        ledger = compared_again(with_row(ledger, row), row.name)
    return ledger


@pytest.mark.parametrize(
    ("stage", "on_fail", "accept", "stops", "outcome"),
    [
        ("01", "stop", False, True, "failed"),
        ("01", "stop", True, False, "accepted"),
        ("01", "warn", False, False, "failed"),
        ("01", "dial", False, False, "failed"),
        ("merge", "dial", False, True, "failed"),  # it has no adapter to scale
        ("merge", "warn", False, False, "failed"),
    ],
)
def test_what_a_failed_gate_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    on_fail: str,
    accept: bool,
    stops: bool,
    outcome: str,
) -> None:
    recorded: list[Any] = []
    monkeypatch.setattr(stage_ledger, "record_gates", lambda context, step, results: recorded.append((step, results)))
    settings = [setting.format(on_fail=on_fail) for setting in GATES]
    ledger = make_ledger(tmp_path, stage, *settings, accept_harm=accept)
    rows = gated_rows()
    row = next(row for row in rows.steps if row.name == stage)
    if stops:
        with pytest.raises(GateError, match=rf"^step {stage} is not published: .* kept here\. Next: "):
            ledger.decide(row, rows, "kept here.")
    else:
        assert [result.outcome for result in ledger.decide(row, rows, "kept here.")] == [outcome]
    ((step, results),) = recorded
    assert (step, [result.outcome for result in results]) == (stage, [outcome])
    told = messages_of(ledger.context).texts
    # A message of what does not stop; what stops is in the error.
    assert len(told) == (accept or on_fail == "warn")
    assert all(text.startswith(f"gate of step {stage}, {outcome}: exam dev, options") for text in told)


def test_a_gate_that_passes_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_ledger, "record_gates", lambda *arguments: None)
    ledger = make_ledger(tmp_path, "01", *(setting.format(on_fail="stop") for setting in GATES))
    rows = gated_rows("1" * 40)
    assert [result.outcome for result in ledger.decide(rows.steps[1], rows, "")] == ["passed"]
    assert messages_of(ledger.context).texts == []


@pytest.mark.parametrize("on_fail", ["stop", "dial"])
def test_the_result_is_checked_before_it_is_published(
    tmp_path: Path, there: list[Step], measured: Measured, monkeypatch: pytest.MonkeyPatch, on_fail: str
) -> None:
    dialed: list[Any] = []
    failed = gated_rows()
    ledger = make_ledger(tmp_path, "01", *(setting.format(on_fail=on_fail) for setting in GATES))
    monkeypatch.setattr(stage_ledger, "record_gates", lambda *arguments: None)
    monkeypatch.setattr(stage_ledger, "read_ledger", lambda context: failed)
    monkeypatch.setattr(stage_ledger, "measure_step", lambda context, step, *rest, **options: failed.step(step.name))
    monkeypatch.setattr(StageLedger, "_dial", lambda ledger, model: dialed.append(model))
    if on_fail == "stop":
        with pytest.raises(GateError, match=r"It is kept\."):
            ledger.check(tmp_path / "unpublished", cast(Any, "model"), "It is kept.")
    else:
        ledger.check(tmp_path / "unpublished", cast(Any, "model"), "It is kept.")
    assert dialed == (["model"] if on_fail == "dial" else [])


def test_a_failed_gate_scales_the_model_in_memory_by_the_largest_scale_that_passes(
    tmp_path: Path, there: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make_ledger(tmp_path, "01")
    told: list[Any] = []

    @dataclass
    class Dialed:
        stage: str
        variant: str
        model: Any
        path: str = "dial.json"
        scale: float = 0.75

    def open_dial(context: Any, stage: Any, variant: str, data: Any, load: Any) -> Dialed:
        assert (context.model, data) == ("tiny", "data")
        return Dialed(stage.name, variant, load(there[2])[0])

    monkeypatch.setattr(stage_ledger, "open_dial", open_dial)
    monkeypatch.setattr(stage_ledger, "largest_passing", lambda dial, *, gated_only: noted(told, gated_only, dial))
    monkeypatch.setattr(stage_ledger, "apply_scale", lambda dial, scale: told.append((dial.model, scale)))
    ledger._dial(cast(Any, "model"))
    assert told == [True, ("model", 0.75)]
    (message,) = messages_of(ledger.context).texts
    assert message.startswith("stage 01 is scaled by 0.75, the largest scale that passes the gates")
    assert message.endswith("dial.json")


def test_earlier_stages_are_as_they_were_trained_and_this_one_as_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Any] = []
    monkeypatch.setattr(stage_ledger, "recorded_context", lambda context, **named: running.append(named))
    make_ledger(tmp_path, "01")._recorded()
    assert running == [{"running": "01"}]


def test_the_data_are_loaded_once_with_the_stages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def load(context: Any, base: Path, encoder: Any, given: Any) -> Any:
        loaded.append((base, encoder, given))
        return "loaded"

    monkeypatch.setattr(stage_ledger, "load_ledger_data", load)
    ledger = make_ledger(tmp_path, "01")
    ledger.data, ledger.task = None, cast(Any, "task")
    data: list[Any] = [ledger._data(), ledger._data()]
    assert data == ["loaded", "loaded"]
    assert loaded == [(Path("base"), "encoder", {"dictionary": "task"})]
    other = make_ledger(tmp_path, "01")
    other.data = None
    other._data()
    assert loaded[1:] == [(Path("base"), "encoder", {})]
