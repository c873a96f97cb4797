"""Sends each step's metrics to experiment trackers through transformers' integrations, offline by default.

Runs are named by their content, so that a run that was killed continues the same run of the tracker.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from lorachain.artifacts import LossRow
from lorachain.atomic import atomic_write_text
from lorachain.library_output import output_logged

PROJECT = "lorachain"
_MLFLOW_ID = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where a stage's metrics go."""

    to: tuple[str, ...]
    """Names of trackers (`config.Tracker`)."""
    folder: Path
    """What the trackers write locally, of all stages of a model."""
    run: str
    """The run's name: the same for a run and what continues it."""


def logged(row: LossRow) -> dict[str, float]:
    """What a tracker logs at a step, named as in TRL's logs; the step itself is the x-axis."""
    return {name: value for name, value in row.as_dict().items() if name != "step"}


def tracker_callbacks(tracking: Tracking, step: int) -> list[TrainerCallback]:
    """The callbacks of the trackers, for a run that continues after `step` (0: from the start)."""
    make: Mapping[str, Callable[[], list[TrainerCallback]]] = {
        "tensorboard": lambda: [_tensorboard(tracking, step)],
        "trackio": lambda: [_Trackio()],  # type: ignore[no-untyped-call]
        "wandb": lambda: [_Wandb(), _FinishWandb()],  # type: ignore[no-untyped-call]
        "mlflow": lambda: [_Mlflow(), _RememberMlflow(_mlflow_id_file(tracking))],  # type: ignore[no-untyped-call]
    }
    return [callback for name in tracking.to for callback in make[name]()]


@contextmanager
def tracker_environment(tracking: Tracking | None) -> Iterator[None]:
    """Sets what the trackers read from the environment: local directories, offline, and the run to continue.

    What the user has set (a server, online mode, a project) stays, and the environment is restored afterwards. Runs
    that are open when the block is left by an exception are ended: nothing else may log into them.
    """
    if tracking is None:
        yield
        return
    values = {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": PROJECT,
        "WANDB_DIR": str(tracking.folder),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tracking.folder.absolute()}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(tracking.folder.absolute() / "trackio"),
    }
    values = {name: value for name, value in values.items() if name not in os.environ}
    values |= {"WANDB_RUN_ID": tracking.run, "WANDB_RESUME": "allow"}
    id_file = _mlflow_id_file(tracking)
    if id_file.is_file() and _MLFLOW_ID.fullmatch(known := id_file.read_text(encoding="utf-8").strip()):
        values["MLFLOW_RUN_ID"] = known
    before = {name: os.environ.get(name) for name in values}
    if tracking.to:
        tracking.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(values)
    try:
        yield
    except BaseException:
        _end_runs(tracking.to)
        raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _tensorboard(tracking: Tracking, step: int) -> TrainerCallback:
    """Steps that are repeated after a kill replace those that were logged before it."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tracking.folder / "tensorboard" / tracking.run
    writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    callback: TrainerCallback = TensorBoardCallback(writer)  # type: ignore[no-untyped-call]
    return callback


def _mlflow_id_file(tracking: Tracking) -> Path:
    return tracking.folder / f"mlflow-{tracking.run}.id"


def _end_runs(names: tuple[str, ...]) -> None:
    """Ends the open runs of trackers as failed."""
    ends: Mapping[str, Callable[[Any], None]] = {
        "wandb": lambda wandb: wandb.finish(exit_code=1),
        "mlflow": lambda mlflow: mlflow.end_run("FAILED"),
        "trackio": lambda trackio: trackio.finish(),
    }
    for name in names:
        if name in ends and name in sys.modules:
            try:
                with output_logged(_log):
                    ends[name](sys.modules[name])
            except Exception as error:  # whatever a tracker raises must not hide why the training ended
                _log.warning("%s did not end its run: %s", name, error)


class _Logged(TrainerCallback):
    """What a tracker prints at the beginning and at the end of a run goes to the log, not to the terminal."""

    def on_train_begin(self, *arguments: Any, **keywords: Any) -> None:
        with output_logged(_log):
            super().on_train_begin(*arguments, **keywords)

    def on_train_end(self, *arguments: Any, **keywords: Any) -> None:
        with output_logged(_log):
            super().on_train_end(*arguments, **keywords)


class _Trackio(_Logged, TrackioCallback):
    pass


class _Wandb(_Logged, WandbCallback):
    pass


class _Mlflow(_Logged, MLflowCallback):
    pass


class _FinishWandb(TrainerCallback):
    """Ends the run with the stage; transformers leaves it open, and the next stage would log into it."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        import wandb

        wandb.finish()


class _RememberMlflow(TrainerCallback):
    """Keeps the run's id, which MLflow chooses, for a run that continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        import mlflow

        if (active := mlflow.active_run()) is not None:
            atomic_write_text(self.path, active.info.run_id)
