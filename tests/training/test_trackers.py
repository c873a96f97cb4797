"""Trackers: each step once, the same run after a kill, nothing sent, and a missing package refused at once."""

import os
import socket
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_resume import go

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
    for name in [one for one in os.environ if one.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name, raising=False)
    tracking = Tracking(("wandb", "mlflow"), tmp_path / "tracking", "02-abc")
    before = dict(os.environ)
    with tracker_environment(tracking):
        assert os.environ["WANDB_MODE"] == "offline"
        assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"]) == ("02-abc", "allow")
        assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/tracking/mlflow.db"
        assert os.environ["TRACKIO_DIR"] == f"{tmp_path}/tracking/trackio"
        assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["WANDB_ERROR_REPORTING"]) == ("true", "false")
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


# ---- with the packages, where they are installed ---------------------------------------------------------------------

STEPS = 9
"""Of the run of `go`."""


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Addresses outside of this machine that this process wants to reach; each attempt fails."""
    wanted: list[object] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def checked_connect(own: socket.socket, address: Any) -> None:
        if own.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            wanted.append(address)
            raise OSError("no network in this test")
        connect(own, address)

    def checked_resolve(host: Any, *arguments: Any, **keywords: Any) -> Any:
        if host not in (None, "", "127.0.0.1", "::1", "localhost", socket.gethostname()):
            wanted.append(host)
            raise OSError("no network in this test")
        return resolve(host, *arguments, **keywords)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket, "getaddrinfo", checked_resolve)
    return wanted


def logged_steps(name: str, folder: Path) -> list[int]:
    """The steps of the run `02-abc` that have a loss, as the tracker's own files say."""
    if name == "trackio":
        rows = import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("lorachain", "02-abc")
        return [row["train/global_step"] for row in rows if "train/loss" in row]
    client = import_module("mlflow").MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return [one.step for one in client.get_metric_history((folder / "mlflow-02-abc.id").read_text(), "loss")]


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_run_stays_on_the_machine_and_prints_nothing(
    tmp_path: Path, contacted: list[object], capfd: pytest.CaptureFixture[str], name: str
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    folder = tmp_path / "tracking"
    go(tmp_path / "run", "text", 0.0, tracking=Tracking((name,), folder, "02-abc"))
    assert contacted == []
    assert capfd.readouterr() == ("", "")
    if name == "wandb":
        (run,) = folder.glob("wandb/offline-run-*-02-abc/*.wandb")
        assert run.stat().st_size > 0
    else:
        assert logged_steps(name, folder) == list(range(1, STEPS + 1))


def test_a_run_that_fails_ends_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, object]] = []

    class Tracker:
        def __init__(self, name: str) -> None:
            self.name = name

        def finish(self, exit_code: int | None = None) -> None:
            ended.append((self.name, exit_code))
            raise RuntimeError("not reached its server")

        def end_run(self, status: str) -> None:
            print("one line of a library")
            ended.append((self.name, status))

    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, Tracker(name))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with (
        pytest.raises(ZeroDivisionError),
        tracker_environment(Tracking(("wandb", "mlflow", "trackio"), tmp_path, "02-abc")),
    ):
        raise ZeroDivisionError
    assert ended == [("wandb", 1), ("mlflow", "FAILED")]
    with tracker_environment(Tracking(("wandb", "mlflow"), tmp_path, "02-abc")):
        pass
    assert len(ended) == 2
