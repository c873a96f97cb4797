"""The first section of a report, which must be right for a reader who reads nothing else."""

from pathlib import Path

import pytest

from artifact_making import exact_match_measure, perplexity_measure
from chain_making import run_command_line
from lorachain.artifacts.validation import Measure
from lorachain.report.document.numbers import when
from lorachain.report.document.sections.glance import _change
from report_making import MODEL, make_report_workspace, read_info


def share(value: float, low: float, high: float) -> Measure:
    return exact_match_measure(value).model_copy(update={"wilson95": (low, high)})


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (share(0.1, 0.05, 0.2), share(0.9, 0.8, 0.95), "higher; the intervals do not overlap"),
        (share(0.9, 0.8, 0.95), share(0.1, 0.05, 0.2), "lower; the intervals do not overlap"),
        (share(0.1, 0.05, 0.2), share(0.2, 0.15, 0.3), "the intervals overlap: no clear change"),
        (perplexity_measure(42.0), perplexity_measure(30.0), "lower; not tested for significance"),
        (perplexity_measure(30.0), perplexity_measure(42.0), "higher; not tested for significance"),
        (perplexity_measure(30.0), perplexity_measure(30.0), "unchanged"),
    ],
)
def test_what_is_said_of_a_change(before: Measure, after: Measure, says: str) -> None:
    change = _change(before, after)
    assert not isinstance(change, str)
    assert change.en == says


def test_nothing_is_said_where_nothing_was_measured_before() -> None:
    assert _change(None, perplexity_measure(30.0)) == ""


def test_the_exam_in_a_sentence_and_what_the_last_step_lost(tmp_path: Path) -> None:
    root = make_report_workspace(tmp_path / "w")
    out = tmp_path / "report.md"
    assert run_command_line("report", "--model", MODEL, "--workspace", root, "--out", out)[0] == 0
    text = out.read_text(encoding="utf-8")
    score = read_info(root, "02").validation.after["letters"]
    assert "The public base answers " in text
    assert f"after step 02 the model answers {score.correct} of {score.n} ({100 * score.accuracy:.1f} %)" in text
    assert "Is step 02 significantly worse than the step before it (00) by any measure?" in text
    assert "exam dev, letters" in text
    assert "KorMedMCQA dev" not in text


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-01-02T03:04:05+0900", "2026-01-02 03:04 +0900"),
        ("2026-01-02T03:04:05.123+09:00", "2026-01-02 03:04 +09:00"),
        ("2026-01-02T03:04:05", "2026-01-02 03:04"),
        ("–", "–"),
    ],
)
def test_a_time_is_short(time: str, shown: str) -> None:
    assert when(time) == shown
