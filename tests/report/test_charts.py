"""Pictures: positions on the axis, and escaping."""

import re

import pytest

from artifact_making import exam_cell
from lorachain.artifacts import Cell, Change
from lorachain.report.document.blocks import Text
from lorachain.report.document.charts import Curve, Estimate, interval_strip, line_chart, loss_curves, share_bar
from lorachain.report.document.sections.ledger import shade


def test_an_interval_is_where_its_numbers_are() -> None:
    svg = interval_strip(Estimate(0.0, 0.0, 0.5), Estimate(1.0, 0.5, 1.0), chance=0.2)
    assert re.findall(r'<g class="(\w+)"><line x1="([\d.]+)" x2="([\d.]+)"', svg) == [
        ("before", "6", "120"),
        ("after", "120", "234"),
    ]
    assert re.findall(r'<circle cx="([\d.]+)"', svg) == ["6", "234"]
    assert '<line class="chance" x1="51.6" x2="51.6"' in svg
    assert interval_strip(None, None).count("<circle") == 0


def test_a_bar_is_as_long_as_its_share() -> None:
    assert 'width="30"' in share_bar(0.25)
    assert 'width="120" height="10" rx="2"/></svg>' in share_bar(7.0)


def test_a_line_begins_at_the_left_and_ends_at_the_right() -> None:
    svg = line_chart([Curve([0, 10], [4.0, 0.0], "smooth")], Text("a<b", "가<나"), height=100, steps=10)
    assert '<polyline class="curve smooth" points="40,20 332,68"/>' in svg
    assert "a&lt;b" in svg
    assert "<text" in svg
    assert [float(tick) for tick in re.findall(r'text-anchor="end">([\d.]+)<', svg)][:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [1, 20, 21, 400, 401, 5000])
def test_a_long_run_is_averaged_and_keeps_its_mean(length: int) -> None:
    losses = [float(step % 7) for step in range(length)]
    curves = loss_curves(list(range(1, length + 1)), losses)
    assert [curve.style for curve in curves] == (["raw", "smooth"] if length > 20 else ["smooth"])
    points = curves[0].ys
    assert len(points) <= 400
    assert sum(points) / len(points) == pytest.approx(sum(losses) / length, rel=0.05)


@pytest.mark.parametrize(
    ("verdict", "difference", "expected"),
    [
        ("better", 0.01, "better-1"),
        ("better", 0.02, "better-2"),
        ("worse", -0.1, "worse-3"),
        ("within noise", 0.5, "noise"),
        ("not significantly different", 0.5, "same"),
    ],
)
def test_a_share_is_shaded_by_points(verdict: str, difference: float, expected: str) -> None:
    change = Change.model_validate(
        {"difference": difference, "interval95": (0.0, 1.0), "test": "exact McNemar", "p": 0.5, "p_holm": 0.5,
         "verdict": verdict}
    )  # fmt: skip
    assert shade(exam_cell("10"), change) == expected


def test_a_perplexity_is_shaded_by_its_relative_change() -> None:
    cell = Cell(
        measure="korean", kind="perplexity", version="1", data_sha256="a", value=12.0, n=1, unit="documents",
        sums=(2.0,), weights=(1,),
    )  # fmt: skip
    for difference, expected in ((0.4, "worse-1"), (1.0, "worse-2"), (2.0, "worse-3")):
        change = Change.model_validate(
            {"difference": difference, "interval95": (0.0, 1.0), "test": "paired bootstrap", "p": 0.5, "p_holm": 0.5,
             "verdict": "worse"}
        )  # fmt: skip
        assert shade(cell, change) == expected


def test_the_labels_of_a_learning_rate_fit_into_the_margin() -> None:
    svg = line_chart([Curve([1, 7], [2e-4, 5e-4], "rate")], Text("learning rate", "학습률"), steps=7)
    labels = re.findall(r'text-anchor="end">([^<]+)<', svg)
    assert labels[:6] == ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4"]
    assert all(len(label) <= 6 for label in labels)
