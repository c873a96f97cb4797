"""Gates on scores that were made for the purpose: what fails, what does not, and what is said of it."""

from pathlib import Path

import pytest

from artifact_making import exam_cell, ledger_step
from lorachain.artifacts import Cell, GateResult, Ledger, LedgerStep
from lorachain.chain.context import ChainContext, load_config
from lorachain.chain.gates import accepted, evaluate_gates, failures, stop_message
from lorachain.chain.ledger import compared
from lorachain.config import GateConfig
from lorachain.errors import ConfigError
from lorachain.evaluation.ledger_statistics import perplexity_cell
from lorachain.registry import ModelEntry
from lorachain.report.console import ConsoleReporter
from lorachain.workspace import Workspace

HARM, CHANCE = "0" * 40 + "1" * 60, "0" * 3 + "1" * 97
GATE = GateConfig(max_loss=2.0)


def chain(*steps: LedgerStep) -> Ledger:
    ledger = Ledger(model="tiny", settings={}, steps=steps)
    return ledger.model_copy(update={"steps": tuple(compared(step, ledger) for step in steps)})


def gated(ledger: Ledger, gate: GateConfig, step: str = "00", name: str = "exam") -> list[GateResult]:
    row = ledger.step(step)
    assert row is not None
    return list(evaluate_gates({name: gate}, row, ledger, "letters"))


def two_steps(before: str, after: str) -> Ledger:
    return chain(ledger_step("base", None, exam_cell(before)), ledger_step("00", "base", exam_cell(after)))


def texts(*losses: float, measure: str = "korean") -> Cell:
    return perplexity_cell(measure, "1", "ab" * 32, [10 * loss for loss in losses], [10] * len(losses))


def test_a_large_and_significant_loss_fails() -> None:
    (result,) = gated(two_steps("1" * 100, HARM), GATE)
    assert (result.outcome, result.measure) == ("failed", "exam_letters")
    assert result.loss == pytest.approx(40)
    assert result.p_holm is not None
    assert result.p_holm < 0.001
    assert "60.0 % against 100.0 % of base: 40.0 points lost, 2 tolerated, p < 0.001" in result.summary
    assert "40 lost and 0 gained of 100" in result.summary


@pytest.mark.parametrize(
    ("before", "after", "max_loss"),
    [
        ("1" * 100, CHANCE, 2.0),  # larger than tolerated, but 3 questions may be chance
        ("1" * 100, HARM, 40.0),  # significant, but tolerated
        (HARM, "1" * 100, 0.0),  # a gain
        (HARM, HARM, 0.0),
    ],
)
def test_other_losses_pass(before: str, after: str, max_loss: float) -> None:
    (result,) = gated(two_steps(before, after), GateConfig(max_loss=max_loss))
    assert result.outcome == "passed"


def test_a_loss_in_per_cent_of_the_reference() -> None:
    ledger = two_steps("1" * 50 + "0" * 50, "1" * 20 + "0" * 80)
    assert gated(ledger, GateConfig(max_loss=59, unit="percent"))[0].outcome == "failed"
    assert gated(ledger, GateConfig(max_loss=61, unit="percent"))[0].outcome == "passed"


def test_against_the_parent() -> None:
    base = ledger_step("base", None, exam_cell(HARM))
    ledger = chain(base, ledger_step("00", "base", exam_cell("1" * 100)), ledger_step("01", "00", exam_cell(HARM)))
    assert gated(ledger, GATE, "01")[0].outcome == "passed"
    assert gated(ledger, GateConfig(max_loss=2.0, against="parent"), "01")[0].outcome == "failed"


def test_perplexity_that_rises_is_a_loss() -> None:
    before = [1.0 + 0.1 * i for i in range(20)]
    after = [loss + 0.2 for loss in before]
    ledger = chain(ledger_step("base", None, texts(*before)), ledger_step("00", "base", texts(*after)))
    (result,) = gated(ledger, GateConfig(max_loss=10, unit="percent"), name="korean")
    assert result.outcome == "failed"
    assert result.loss == pytest.approx(22.14, abs=0.01)
    better = chain(ledger_step("base", None, texts(*after)), ledger_step("00", "base", texts(*before)))
    assert gated(better, GateConfig(max_loss=0, unit="percent"), name="korean")[0].outcome == "passed"


def test_one_gate_for_several_measures() -> None:
    names = ("exact_match_term_to_english", "exact_match_english_to_term")
    base = ledger_step("base", None, *(exam_cell("1" * 40, name) for name in names))
    after = ledger_step("00", "base", exam_cell("1" * 40, names[0]), exam_cell("0" * 40, names[1]))
    results = gated(chain(base, after), GATE, name="exact_match")
    assert [(result.measure, result.outcome) for result in results] == [(names[0], "passed"), (names[1], "failed")]


def test_what_was_not_measured_is_said() -> None:
    ledger = chain(ledger_step("base", None), ledger_step("00", "base", exam_cell(HARM)))
    (result,) = gated(ledger, GATE)
    assert result.outcome == "not evaluated"
    assert "base has no score of the same items" in result.summary
    (result,) = gated(ledger, GATE, name="english")
    assert "perplexity, English: this step was not measured" in result.summary


def test_harm_can_be_accepted() -> None:
    results = gated(two_steps("1" * 100, HARM), GATE)
    assert failures(results, "stop") == results
    assert [result.outcome for result in accepted(results)] == ["accepted"]
    warned = gated(two_steps("1" * 100, HARM), GateConfig(max_loss=2.0, on_fail="warn"))
    assert not failures(warned, "stop")
    assert accepted(warned) == tuple(warned)


def test_the_message_names_what_can_be_done(tmp_path: Path) -> None:
    context = ChainContext(
        workspace=Workspace(tmp_path),
        model="tiny",
        entry=ModelEntry(local_path=tmp_path),
        config=load_config(),
        reporter=ConsoleReporter(quiet=True),
    )
    results = gated(two_steps("1" * 100, HARM), GATE)
    message = stop_message(context, "00", "train 00", results, "Its adapter is kept in X.")
    for part in (
        "step 00 is not published: exam dev, letters 60.0 %",
        "Its adapter is kept in X.",
        f"lorachain train 00 --model tiny --workspace {tmp_path} --accept-harm",
        "raise gates.exam.max_loss and run the same command again",
        "lorachain dial 00 --model tiny",
        "a lower --learning-rate",
    ):
        assert part in message
    assert "dial" not in stop_message(context, "merge", "train 01", results, "")


def test_the_default_gate() -> None:
    """MedGemma's chain stops where the exam falls significantly by more than 2 points below the base."""
    assert load_config().gates == {"exam": GateConfig(max_loss=2.0, unit="points", against="base", on_fail="stop")}


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"exams": {"max_loss": 1}}, "exams"),
        ({"exam": {"max_loss": -1}}, "gates.exam.max_loss"),
        ({"korean": {}}, "gates.korean.max_loss' is missing"),
        ({"korean": {"max_loss": 1, "on_fail": "ignore"}}, "gates.korean.on_fail"),
        ({"korean": {"max_loss": 1, "tolerance": 2}}, "unknown setting 'gates.korean.tolerance'"),
    ],
)
def test_gates_are_checked(gates: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[{"gates": gates}])
    assert message in str(caught.value)
