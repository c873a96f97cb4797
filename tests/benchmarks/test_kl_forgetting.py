"""Whether divergence predicts forgetting: the statistics of the benchmark."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def kl_forgetting(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("kl_forgetting")


def test_r_squared_is_that_of_a_line(kl_forgetting: Any) -> None:
    x = np.array([1.0, 2.0, 4.0, 7.0])
    assert kl_forgetting.r_squared(x, 3 - 2 * x) == pytest.approx(1)
    y = np.array([1.0, 3.0, 2.0, 5.0])
    slope, intercept = np.polyfit(x, y, 1)
    residual = ((y - slope * x - intercept) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert kl_forgetting.r_squared(x, y) == pytest.approx(1 - residual)
    assert np.isnan(kl_forgetting.r_squared(x, np.ones(4)))


def test_every_run_is_reported_before_the_interval(kl_forgetting: Any) -> None:
    runs = [{"seed": 0, "share": n / 10, "kl": 1.0 + n, "forgotten": 0.9 - n / 10 + 0.02 * (n % 2)} for n in range(6)]
    lines = kl_forgetting.report(runs)
    assert lines[0] == "seed 0, replay 0      KL 1.000 nats  forgot 90.0 %"
    assert len(lines) == 7
    squared, low, high = (float(part.strip("[],")) for part in lines[-1].split()[1:4])
    assert low <= squared <= high <= 1
    assert lines[-1].endswith(", 6 runs")
