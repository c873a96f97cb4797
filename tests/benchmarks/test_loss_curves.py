"""The comparison of the loss curves of two paths."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_text_model, make_tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_bias_is_compared_with_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from loss_curves import comparison

    plain = {0: [3.0, 2.0, 2.0, 1.0], 1: [3.2, 2.2, 2.2, 1.2], 2: [3.1, 2.1, 2.1, 1.1]}
    shifts = {0: 0.01, 1: 0.02, 2: 0.03}
    result = comparison({s: {"plain": p, "lorachain": [x + shifts[s] for x in p]} for s, p in plain.items()})
    assert result["all steps"]["mean"] == pytest.approx(0.02)
    assert result["all steps"]["half_width"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)  # t(0.975, 2)
    assert result["all steps"]["seed_to_seed"] == pytest.approx(0.1)
    assert result["all steps"]["largest"] == pytest.approx(0.03)
    assert result["last quarter"]["mean"] == pytest.approx(0.02)


def test_the_script_trains_both_paths_over_the_same_steps(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    make_text_model().bfloat16().save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    out = tmp_path / "curves.json"
    command = [
        sys.executable, str(BENCHMARKS / "loss_curves.py"), "--model", str(model), "--steps", "3", "--seeds", "0",
        "--pack-length", "64", "--json", str(out),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "LORACHAIN_REAL_DATA"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    losses = json.loads(out.read_text())["losses"]["0"]
    assert len(losses["lorachain"]) == len(losses["plain"]) == 3
    assert losses["lorachain"] == pytest.approx(losses["plain"], rel=2e-3)
