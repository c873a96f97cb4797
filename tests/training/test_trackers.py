"""Trackers: each step once, the same run after a kill, nothing sent, and a missing package refused at once."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from chain_making import options_of
from lorachain.artifacts import LossRow
from lorachain.chain import trackers as installed
from lorachain.training.trackers import Tracking, logged, tracker_callbacks, tracker_environment
from refusals import refused


def row(step: int) -> LossRow:
    return LossRow(step=step, epoch=step / 3, loss=1 / 3, learning_rate=2e-4, grad_norm=0.5, num_tokens=40 * step)


def test_metrics_are_named_as_those_of_trl() -> None:
    assert logged(row(3)) == {
        "epoch": 1.0,
        "loss": 1 / 3,
        "learning_rate": 2e-4,
        "grad_norm": 0.5,
        "num_tokens": 120,
    }


def test_no_tracker_leaves_no_trace(tmp_path: Path) -> None:
    tracking = Tracking((), tmp_path / "tracking", "02-abc")
    assert tracker_callbacks(tracking, 0) == []
    with tracker_environment(tracking):
        pass
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_offline_and_continue_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    tracking = Tracking(("wandb", "mlflow"), tmp_path / "tracking", "02-abc")
    before = dict(os.environ)
    with tracker_environment(tracking):
        assert os.environ["WANDB_MODE"] == "offline"
        assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"]) == ("02-abc", "allow")
        assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/tracking/mlflow.db"
        assert "MLFLOW_RUN_ID" not in os.environ
    assert dict(os.environ) == before
    (tracking.folder / "mlflow-02-abc.id").write_text("0123456789abcdef" * 2)
    with tracker_environment(tracking):
        assert os.environ["MLFLOW_RUN_ID"] == "0123456789abcdef" * 2
    (tracking.folder / "mlflow-02-abc.id").write_text("--other")
    with tracker_environment(tracking):
        assert "MLFLOW_RUN_ID" not in os.environ


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    with tracker_environment(Tracking(("wandb",), tmp_path, "02-abc")):
        assert os.environ["WANDB_MODE"] == "online"
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracking.example"
    assert os.environ["WANDB_MODE"] == "online"


def test_a_missing_package_is_refused_before_anything_starts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    says = ("tracking.to names 'wandb', which is not installed", "pip install wandb")
    refused(root, "run", *options_of(root), "--set", 'tracking.to=["wandb"]', says=says)


def test_an_unknown_tracker_is_refused(root: Path) -> None:
    refused(root, "run", *options_of(root), "--set", 'tracking.to=["excel"]', says=("tracking.to.0", "'excel'"))
    refused(root, "init", *options_of(root), "--set", 'tracking.to=["wandb"]', says=("tracking.to has no effect",))
