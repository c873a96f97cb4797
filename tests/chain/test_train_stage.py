"""A training stage from its parent to a published directory: the order of its steps, and what it is made from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lorachain.chain import runtime as runtime_module
from lorachain.chain import train_stage
from lorachain.chain.exams import ExamQuestions
from lorachain.chain.parents import Parent
from lorachain.chain.runtime import Runtime
from lorachain.chain.source_records import sources_hash
from lorachain.chain.stages import find_stage
from lorachain.errors import GateError
from lorachain.processes import Processes
from lorachain.provenance import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_sha256, sha256_json
from stage_making import (
    EXAM_SOURCE,
    FINGERPRINT,
    QUESTIONS,
    SOURCE,
    Task,
    make_context,
    make_run,
    messages_of,
    noted,
    parent_info,
)

CPU = torch.device("cpu")


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The steps of a stage, as they are called, each doing nothing."""
    called: list[Any] = []
    run = make_run(make_context(tmp_path))

    def step(name: str, result: Any = None) -> None:
        monkeypatch.setattr(train_stage, name, lambda *arguments: noted(called, name, result))

    for name, result in (
        ("load_inputs", run.inputs),
        ("open_record", run.record),
        ("is_unpublished", False),
        ("train_and_write", "model"),
        ("reset_peak", None),
    ):
        step(name, result)
    monkeypatch.setattr(train_stage, "check_gates", lambda run, model: called.append(("check_gates", model)))
    monkeypatch.setattr(train_stage, "move_folder", lambda source, target: called.append((source.name, target)))
    monkeypatch.setattr(Processes, "wait", lambda processes: called.append("wait"))
    return called


def train(root: Path, rank: int = 0) -> None:
    processes = Processes(rank=rank, world=1)
    train_stage.train_stage(make_context(root), Runtime(CPU, torch.float32, processes), find_stage("01"))


BEGIN = ["reset_peak", "load_inputs", "open_record", "is_unpublished"]


def published(root: Path) -> tuple[str, Path]:
    return ("unpublished", root / "model" / "01_trained" / "tiny")


def test_a_stage_is_trained_checked_and_published(tmp_path: Path, steps: list[Any]) -> None:
    train(tmp_path)
    assert steps == [*BEGIN, "train_and_write", ("check_gates", "model"), published(tmp_path), "wait"]


def test_what_waits_to_be_published_is_not_trained_again(
    tmp_path: Path, steps: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_stage, "is_unpublished", lambda run: True)
    train(tmp_path)
    assert steps == [*BEGIN[:3], ("check_gates", None), published(tmp_path), "wait"]


def test_a_stopped_stage_is_not_published(tmp_path: Path, steps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(run: Any, model: Any) -> None:
        raise GateError("stopped")

    monkeypatch.setattr(train_stage, "check_gates", stop)
    with pytest.raises(GateError):
        train(tmp_path)
    assert steps == [*BEGIN, "train_and_write"]


def test_the_main_process_alone_publishes(tmp_path: Path, steps: list[Any]) -> None:
    train(tmp_path, rank=1)  # `is_unpublished` is the main process's to say
    assert steps == [*BEGIN[:3], "train_and_write", ("check_gates", "model"), "wait"]


# ---- inputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parent:
    folder = tmp_path / "model" / "00_trained" / "tiny"
    folder.mkdir(parents=True)
    (folder / ADAPTER_CONFIG).write_text("{}", encoding="utf-8")
    (folder / ADAPTER_WEIGHTS).write_bytes(b"x" * 1000)
    found = Parent(folder, tmp_path / "base", parent_info(make_context(tmp_path)))
    monkeypatch.setattr(train_stage, "find_parent", lambda context, stage: found)
    monkeypatch.setattr(train_stage, "load_tokenizer", lambda base: f"tokenizer of {base.name}")
    monkeypatch.setattr(train_stage, "TokenEncoder", lambda tokenizer: f"encoder of {tokenizer}")
    return found


@pytest.mark.parametrize("replayed", [False, True])
def test_a_stage_is_made_from_its_parent_its_sources_and_its_settings(
    tmp_path: Path, parent: Parent, monkeypatch: pytest.MonkeyPatch, replayed: bool
) -> None:
    required: list[Any] = []
    monkeypatch.setattr(train_stage, "require_space", lambda folder, size: required.append((folder, size)))
    monkeypatch.setattr(train_stage, "require_quantizer", required.append)
    questions = ExamQuestions(QUESTIONS[:4], QUESTIONS, [EXAM_SOURCE])

    def load_questions(sources: Any, *, max_questions: int, skip_bad_rows: bool) -> ExamQuestions:
        assert (sources, max_questions, skip_bad_rows) == (context.sources.exam, 4, True)
        return questions

    def task_inputs(of: Any, stage: Any, sources: Any, given: Any, **options: Any) -> Any:
        assert (of, stage.name, sources, given) == (context, "01", context.sources.dictionary, questions)
        assert options == {
            "base": parent.base,
            "encoder": "encoder of tokenizer of base",
            "cache": context.workspace.token_cache("01", "tiny"),
            "on_message": context.reporter.message,
        }
        return "task inputs"

    other = replace(SOURCE, sha256="e" * 64)
    replay = SimpleNamespace(sources=[other]) if replayed else None

    def load_replay(of: Any, stage: Any, inputs: Any, task: Any) -> Any:
        assert (of, stage.name, inputs, task.counts) == (
            context,
            "01",
            "task inputs",
            {"terms": 1234, "no": 0},
        )
        return replay

    context = make_context(tmp_path, "validation.max_questions=4", "seed=9", 'quantization="nf4"', skip_bad_rows=True)
    task = Task(counts={"terms": 1234, "no": 0})
    stage = SimpleNamespace(**{name: getattr(find_stage("01"), name) for name in ("name", "title", "source")})
    stage.load_task = lambda: lambda inputs: task if inputs == "task inputs" else None
    for name, function in (
        ("load_exam_questions", load_questions), ("task_inputs", task_inputs), ("load_replay", load_replay)
    ):  # fmt: skip
        monkeypatch.setattr(train_stage, name, function)
    monkeypatch.setattr(train_stage, "read_history", lambda folder: [folder])
    inputs = train_stage.load_inputs(context, Runtime(CPU, torch.float32), cast(Any, stage))

    # Eight times the adapter: a checkpoint has the adapter and three copies of it in float32.
    assert required == ["nf4", (context.workspace.training("01", "tiny"), 8000)]
    assert (inputs.parent, inputs.questions, inputs.task, inputs.replay) == (parent, questions, task, replay)
    assert cast(Any, inputs.inherited) == [parent.folder]
    made_from = inputs.depends_on
    assert made_from.parent.folder == "00_trained/tiny"
    assert made_from.parent.adapter_sha256 == adapter_sha256(parent.folder)
    assert made_from.parent.base_sha256 == parent.info.base_sha256
    assert made_from.data.sources == sources_hash([SOURCE, *([other] if replayed else [])])
    assert made_from.data.dev == sources_hash([EXAM_SOURCE])
    assert made_from.settings.stage == context.config.stages["01"].model_dump()
    assert (made_from.settings.quantization, made_from.seed) == ("nf4", 9)
    assert inputs.fingerprint == sha256_json(made_from.identity())
    assert messages_of(context).texts == ["stage 01, medical dictionary: tiny on cpu, 1,234 terms"]


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True])
def test_the_model_to_train_is_the_parents_adapter_on_its_base(
    tmp_path: Path, parent: Parent, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    context = make_context(tmp_path, 'quantization="int8"')
    loaded: list[Any] = []
    monkeypatch.setattr(train_stage, "load_model", lambda *arguments: noted(loaded, arguments, "base"))
    monkeypatch.setattr(train_stage, "drop_vision_tower", lambda model: loaded.append(f"{model} without vision"))
    monkeypatch.setattr(
        train_stage,
        "load_adapter",
        lambda base, folder, *, trainable: noted(loaded, (base, folder, trainable), "model"),
    )
    monkeypatch.setattr(
        runtime_module, "shard_layers", lambda model, device: loaded.append(f"{model} sharded on {device}")
    )
    runtime = Runtime(torch.device("cuda:1"), torch.float32, Processes(sharded=sharded))
    assert cast(Any, train_stage.load_trainable_model(context, runtime, parent)) == "model"
    held_on = CPU if sharded else runtime.device  # a model that does not fit on one GPU never is on one
    expected = [(parent.base, held_on, torch.float32, "int8"), "base without vision", ("base", parent.folder, True)]
    assert loaded == [*expected, *(["model sharded on cuda:1"] if sharded else [])]


@pytest.mark.parametrize(("rank", "sharded"), [(0, False), (1, False), (0, True), (1, True)])
def test_the_main_process_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, sharded: bool
) -> None:
    """All compute the stage's measures, of which each does a part."""
    run = make_run(make_context(tmp_path), processes=Processes(rank, 1, sharded))
    called: list[str] = []
    cast(Any, run.ledger).measure_earlier = lambda: called.append("measure_earlier")
    kept = SimpleNamespace(step=3)
    for name, result in (
        ("load_trainable_model", 1.0),
        ("measure", None),
        ("fit", (SimpleNamespace(step=3), "tensors")),
        ("set_adapter_tensors", None),
        ("task_measures", {}),
        ("write_output", None),
    ):
        monkeypatch.setattr(train_stage, name, lambda *_, name=name, result=result: noted(called, name, result))
    monkeypatch.setattr(Processes, "broadcast", lambda processes, decide: kept)
    train_stage.train_and_write(run)
    assert ("measure_earlier" in called) == ("write_output" in called) == (rank == 0)
    assert "task_measures" in called


@pytest.mark.parametrize(("rank", "sharded"), [(0, False), (1, False), (0, True)])
def test_the_parent_is_measured_in_the_main_process_by_a_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, sharded: bool
) -> None:
    run = make_run(make_context(tmp_path), processes=Processes(rank, 1, sharded))
    run.record.before = {}
    monkeypatch.setattr(Processes, "broadcast", lambda processes, decide: (True, True))
    monkeypatch.setattr(type(run.record), "score_of", lambda record, epoch: SimpleNamespace(result=epoch))
    train_stage.measure(run, cast(Any, "model"))
    parents = cast(Any, run.ledger).parents
    assert [(model, stored.validation) for model, stored in parents] == (
        [] if rank else [(None if sharded else "model", 0)]
    )


def test_measures_of_a_stage_are_its_tasks(tmp_path: Path) -> None:
    run = make_run(make_context(tmp_path))
    measures = train_stage.task_measures(run, cast(Any, 0.25))
    assert measures["exact_match"].value == 0.25
    assert messages_of(run.context).bars == [("measuring 01", 1)]


@pytest.mark.parametrize("protocol", ["options", None])
def test_a_stage_resumes_where_its_record_and_its_log_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str | None
) -> None:
    run = make_run(make_context(tmp_path, f'stages.01.keep="{"best" if protocol else "last"}"'))
    point = SimpleNamespace(search=SimpleNamespace(step=7))
    told: list[Any] = []
    monkeypatch.setattr(train_stage, "find_resume_point", lambda *arguments: noted(told, arguments, point))
    monkeypatch.setattr(train_stage, "drop_after", lambda *arguments: told.append(arguments))
    assert cast(Any, train_stage._resume_point(run)) is point
    log = tmp_path / "model" / "01_training" / "train_01_debug.log"
    assert told == [(run.folder, run.record, protocol), (7, run.record, log, f"tiny {FINGERPRINT[:12]}")]
