"""The steps of a training stage, each by itself: what is selected, trained, kept and checked."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from lorachain.chain import train_stage
from lorachain.chain.resume import ResumePoint
from lorachain.chain.stage_run import StageRun
from lorachain.chain.stages import find_stage
from lorachain.errors import GateError
from lorachain.processes import Processes
from lorachain.provenance import ADAPTER_WEIGHTS
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.checkpoints import CheckpointSearch
from lorachain.training.progress import Progress
from lorachain.workspace import TRAINING_INFO
from stage_making import (
    FINGERPRINT,
    SCORES,
    make_context,
    make_run,
    measure_of,
    messages_of,
    noted,
    parent_info,
    score,
)

# ---- what a run is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "settings", "protocol"),
    [
        ("01", (), None),
        ("02", (), "options"),
        ("01", ('stages.01.keep="best"',), "options"),
        ("02", ('stages.02.keep="last"',), None),
    ],
)
def test_the_best_epoch_is_selected_by_the_protocol_of_the_model(
    tmp_path: Path, stage: str, settings: tuple[str, ...], protocol: str | None
) -> None:
    run = make_run(make_context(tmp_path, *settings), stage)
    assert run.selecting_protocol == protocol
    assert run.folder == tmp_path / "model" / f"{stage}_training" / "tiny"
    assert run.unpublished == run.folder / "unpublished"
    assert run.step_marker == "tiny 0123456789ab"


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 3)])
def test_an_epoch_is_selected(tmp_path: Path, keep: str, epoch: int) -> None:
    context = make_context(tmp_path, f'stages.01.keep="{keep}"')
    assert train_stage.select(make_run(context, scores=SCORES)).epoch == epoch
    assert messages_of(context).texts == (["epoch 2 of 3 has the best dev score and is kept"] if keep == "best" else [])


def test_the_last_epoch_needs_no_message(tmp_path: Path) -> None:
    context = make_context(tmp_path, 'stages.01.keep="best"')
    assert train_stage.select(make_run(context, scores=SCORES[:2])).epoch == 1
    assert messages_of(context).texts == []


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replayed", [False, True])
def test_the_schedule_is_that_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: bool) -> None:
    context = make_context(
        tmp_path, "stages.01.epochs=4", "stages.01.batch_size=3", "training.micro_batch_tokens=99", "seed=5"
    )
    monkeypatch.setattr(Processes, "first_on_each_node", lambda processes, prepare: (processes.rank, prepare()))
    encoder, replay = _Encoder(), _Replay() if replayed else None
    run = make_run(context, encoder=encoder, replay=replay, processes=Processes(rank=1, world=2))
    schedule = train_stage.make_schedule(run)
    assert (schedule.epochs, schedule.batch_size, schedule.micro_batch_tokens) == (4, 3, 99)
    assert (schedule.seed, schedule.pad_id, schedule.processes) == (5, 17, Processes(1, 2))
    assert cast(Any, schedule.packs_of_epoch(3)) == (1, run.inputs.task.packs_of_epoch(3))
    if replay is None:
        assert schedule.replay_of_epoch is None
    else:
        assert schedule.replay_of_epoch is not None
        assert schedule.replay_of_epoch(3) == (1, replay.packs_of_epoch(3))
    assert schedule.steps is None


def test_a_number_of_supervised_tokens_ends_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchSchedule, "steps_nearest", lambda schedule, tokens: tokens + 1)
    context = make_context(tmp_path, "stages.01.supervised_tokens=40")
    assert train_stage.make_schedule(make_run(context, encoder=_Encoder())).steps == 41


class _Encoder:
    pad_id = 17


class _Pool:
    def __init__(self, name: str) -> None:
        self.name = name

    def shortages(self, epochs: int) -> list[str]:
        return [f"{self.name} is short in {epochs}"]


class _Replay:
    pools = (_Pool("a"), _Pool("b"))

    def packs_of_epoch(self, epoch: int) -> list[Any]:
        return []


@pytest.mark.parametrize("resumed", [False, True])
def test_training_gets_every_setting_and_each_epoch_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    settings = ("stages.01.epochs=7", "stages.01.batch_size=3", "stages.01.learning_rate=0.03", "seed=5")
    context = make_context(
        tmp_path, *settings, 'stages.01.keep="best"', "training.weight_decay=0.5", 'tracking.to=["tensorboard"]'
    )
    run = make_run(context, encoder=_Encoder(), replay=_Replay())
    search = CheckpointSearch(run.folder / "checkpoint-10" if resumed else None, [])
    if resumed:
        run.record.scores = SCORES[:2]

    def resume_point(folder: Path, record: Any, protocol: str | None) -> Any:
        assert (folder, record, protocol) == (run.folder, run.record, "options")
        return ResumePoint(search, 5 if resumed else None)

    monkeypatch.setattr(train_stage, "find_resume_point", resume_point)
    dropped: list[Any] = []
    monkeypatch.setattr(train_stage, "drop_after", lambda *arguments: dropped.append(arguments))
    right = {1: 4, 2: 7, 3: 7, 4: 8}
    monkeypatch.setattr(
        train_stage, "validate_epoch", lambda run, model, *, epoch, step: score("01", epoch, step, 0, right[epoch])
    )

    def train(model: Any, schedule: Any, given: Any, **options: Any) -> Any:
        assert (given.learning_rate, given.seed, given.weight_decay) == (0.03, 5, 0.5)
        assert (options["run"], options["fingerprint"]) == (run.folder, FINGERPRINT)
        assert (options["checkpoint"], options["best_step"]) == (search, 5 if resumed else None)
        assert options["tracking"].to == ("tensorboard",)
        assert options["tracking"].run == "01-0123456789ab"
        assert options["tracking"].folder == tmp_path / "model" / "tracking" / "tiny"
        assert len(schedule) == 7 * 4
        best = [options["on_epoch_end"](epoch, 4 * epoch) for epoch in (1, 2, 3, 4)]
        assert best == [True, True, False, True]
        options["on_step"](Progress(step=12, tokens=100, seconds=4.0, losses=[3.0, 2.0]))
        return Progress(step=28), {}

    monkeypatch.setattr(train_stage, "train", train)
    assert train_stage.fit(run, cast(Any, "model"))[0].step == 28
    assert [(one.epoch, one.step) for one in run.record.scores] == [*([(0, 0)] if resumed else []), *_EPOCH_STEPS]
    log = context.workspace.debug_log("01")
    assert dropped == [(10 if resumed else 0, run.record, log, run.step_marker)]
    told = messages_of(context)
    assert told.bars == [("training 01", 28)]
    assert told.progress == [*([(10, "resumed")] if resumed else []), (12, "loss 2.000 · 25 tokens/s")]
    assert told.texts == ["a is short in 7", "b is short in 7"]


_EPOCH_STEPS = [(1, 4), (2, 8), (3, 12), (4, 16)]


# ---- after training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept_step", "from_checkpoint"), [(10, True), (15, False)])
def test_what_is_measured_and_written_are_the_tensors_of_the_epoch_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_step: int, from_checkpoint: bool
) -> None:
    run = make_run(make_context(tmp_path))
    for step in (5, 10):
        (run.folder / f"checkpoint-{step}").mkdir(parents=True)
        save_file({"w": torch.tensor([float(step)])}, run.folder / f"checkpoint-{step}" / ADAPTER_WEIGHTS)
    order: list[Any] = []
    last = {"w": torch.tensor([15.0])}
    cast(Any, run.ledger).measure_earlier = lambda: order.append("earlier")
    monkeypatch.setattr(train_stage, "load_trainable_model", lambda *arguments: noted(order, "load", 0.5))
    monkeypatch.setattr(train_stage, "measure", lambda run, model: order.append("measure"))
    monkeypatch.setattr(train_stage, "fit", lambda run, model: noted(order, "fit", (Progress(step=15), last)))
    monkeypatch.setattr(train_stage, "select", lambda run: score("01", 2, kept_step, 5))
    monkeypatch.setattr(train_stage, "set_adapter_tensors", lambda model, tensors: order.append(tensors["w"].item()))

    def written(run: StageRun, model: Any, tensors: Any, progress: Progress, kept: Any, after: Any) -> None:
        order.append((tensors["w"].item(), progress.step, kept.step, after["exact_match"].value))

    monkeypatch.setattr(train_stage, "write_output", written)
    train_stage.train_and_write(run)
    kept = 10.0 if from_checkpoint else 15.0
    assert order == ["earlier", "load", "measure", "fit", kept, (kept, 15, kept_step, 0.5)]


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("validated", [False, True])
def test_what_an_interrupted_run_has_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool, validated: bool
) -> None:
    run = make_run(make_context(tmp_path), scores=[score("01", 0, 0, 1)] if validated else [])
    if measured:
        run.record.before = {"exact_match": measure_of(0.25)}
    monkeypatch.setattr(train_stage, "start_score", lambda run, model: score("01", 0, 0, 7))
    train_stage.measure(run, cast(Any, 0.75))
    assert run.record.before == {"exact_match": measure_of(0.25 if measured else 0.75)}
    start = run.record.score_of(0)
    assert start is not None
    assert start.result.protocols["letters"].correct == (1 if validated else 7)
    assert run.record.path.exists() == (not (measured and validated))
    ((model, stored),) = cast(Any, run.ledger).parents
    assert (model, stored.validation, stored.measures) == (0.75, start.result, run.record.before)


@pytest.mark.parametrize("finished", [None, FINGERPRINT, "f" * 64])
def test_a_run_waits_to_be_published_where_its_own_output_is_there(tmp_path: Path, finished: str | None) -> None:
    run = make_run(make_context(tmp_path))
    if finished:
        run.unpublished.mkdir()
        info = parent_info(run.context, "01").model_copy(update={"depends_on_sha256": finished})
        info.write(run.unpublished / TRAINING_INFO)
    assert train_stage.is_unpublished(run) == (finished == FINGERPRINT)


def test_a_gate_that_stops_the_main_process_stops_all(tmp_path: Path) -> None:
    run = make_run(make_context(tmp_path))
    told: list[Any] = []

    def check(unpublished: Path, model: Any, kept: str) -> None:
        told.append((unpublished, model, kept))
        if len(told) == 2:
            raise GateError("too much was lost")

    cast(Any, run.ledger).check = check
    train_stage.check_gates(run, cast(Any, "model"))
    with pytest.raises(GateError, match=r"^too much was lost$"):
        train_stage.check_gates(run, None)
    assert told[0] == (run.unpublished, "model", f"Its adapter is kept in {run.unpublished}.")


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_opens_the_record(tmp_path: Path, main: bool) -> None:
    context = make_context(tmp_path)
    path = context.workspace.run_state("01", "tiny")
    path.parent.mkdir(parents=True)
    path.write_text("not a record", encoding="utf-8")
    runtime = replace(make_run(context).runtime, processes=Processes(rank=0 if main else 1, world=2))
    record = train_stage.open_record(context, runtime, find_stage("01"), FINGERPRINT)
    assert record.fingerprint == FINGERPRINT
    moved = context.workspace.superseded("01", "tiny")
    assert record.moved_to == (moved if main else None)
    assert len(messages_of(context).texts) == main
    assert path.read_text(encoding="utf-8").startswith("{" if main else "not")
