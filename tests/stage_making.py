"""A training stage's run without a model: real settings, records and files, and a task that trains nothing."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from artifact_making import training_info
from lorachain.artifacts import EpochScore, Measure, StageInfo, TrainingInfo, ValidationResult
from lorachain.artifacts.stages import DataIdentity, ParentIdentity, StageSettings, TrainingInputs
from lorachain.chain.context import ChainContext, deciding_settings, load_config
from lorachain.chain.exams import ExamQuestions
from lorachain.chain.parents import Parent
from lorachain.chain.run_record import RunRecord
from lorachain.chain.runtime import Runtime
from lorachain.chain.stage_run import StageInputs, StageRun
from lorachain.chain.stages import find_stage
from lorachain.config_reading import parse_setting
from lorachain.data.sources import SourceInfo
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.processes import Processes
from lorachain.records import ExamQuestion
from lorachain.registry import ModelEntry
from lorachain.workspace import Workspace

QUESTIONS = [
    ExamQuestion(f"q{n}", "doctor", f"{n}번째 물음", ("가", "나", "다", "라", "마"), 0, exam="real") for n in range(10)
]
FINGERPRINT = "0123456789abcdef" * 4
SOURCE = SourceInfo("a.jsonl", "local", {"a.jsonl": "a" * 64}, "b" * 64, "a", 12, 1)
EXAM_SOURCE = SourceInfo("exam", "local", {"dev.jsonl": "c" * 64}, "d" * 64, "exam", 10, 0)


@dataclass
class Messages:
    """A reporter that keeps what it is told."""

    texts: list[str] = field(default_factory=list)
    bars: list[tuple[str, int]] = field(default_factory=list)
    progress: list[tuple[int, str]] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.texts.append(text)

    @contextmanager
    def bar(self, title: str, total: int) -> Any:
        self.bars.append((title, total))
        yield lambda done, note="": self.progress.append((done, note))


@dataclass
class Task:
    """A task of so many packs, whose measure is the model that it is given."""

    packs: int = 10
    sources: list[SourceInfo] = field(default_factory=lambda: [SOURCE])
    counts: dict[str, int] = field(default_factory=lambda: {"terms": 12})

    def packs_of_epoch(self, epoch: int) -> Sequence[Any]:
        return [[]] * self.packs

    def measure(self, model: Any) -> dict[str, Measure]:
        return {"exact_match": measure_of(float(model))}


@dataclass
class NoLedger:
    """A stage's ledger that has, or lacks, the parent's answers."""

    answers: dict[str, str] | None = None
    asked: list[str] = field(default_factory=list)
    parents: list[tuple[Any, Any]] = field(default_factory=list)

    def exam_answers(self, data_sha256: str) -> dict[str, str] | None:
        self.asked.append(data_sha256)
        return self.answers

    def measure_parent(self, model: Any, stored: Any) -> None:
        self.parents.append((model, stored))


def noted(log: list[Any], entry: Any, result: Any = None) -> Any:
    """Appends an entry to a log; returns `result`, for functions that a test puts in the place of others."""
    log.append(entry)
    return result


def measure_of(value: float, n: int = 6) -> Measure:
    return Measure(name="exact match", protocol_version="1", split="s", value=value, n=n, unit="answers")


def validation(letters: int, options: int = 0, questions: Sequence[ExamQuestion] = QUESTIONS) -> ValidationResult:
    """So many right answers by each protocol, the first ones."""
    n = len(questions)
    chosen = {name: "A" * right + "B" * (n - right) for name, right in (("letters", letters), ("options", options))}
    return summarize_validation(questions, chosen, "dev", 0.5)


def score(stage: str, epoch: int, step: int, letters: int, options: int = 0) -> EpochScore:
    result = validation(letters, options)
    return EpochScore(stage=stage, epoch=epoch, step=step, at="2026-01-01", result=result, compared_with={})


SCORES = [score("01", 0, 0, 9, 9), score("01", 1, 5, 2, 4), score("01", 3, 15, 5, 4), score("01", 2, 10, 5, 7)]
"""Best by `options`, which the entry selects by: epoch 2; by `letters`: epoch 2 before 3."""


def make_context(root: Path, *settings: str, **options: Any) -> ChainContext:
    entry = ModelEntry(huggingface_id="owner/name", sources="embedded", answer_style="options")
    config = load_config(overrides=[parse_setting(setting) for setting in settings])
    return ChainContext(Workspace(root), "tiny", entry, config, Messages(), **options)


def messages_of(context: ChainContext) -> Messages:
    return cast(Messages, context.reporter)


def parent_info(context: ChainContext, stage: str = "00", kept: int = 1) -> TrainingInfo:
    """The parent's info, trained as the settings say."""
    info = training_info(stage)
    settings = StageSettings(**deciding_settings(context.config, context.entry, find_stage(stage)))
    return info.model_copy(
        update={
            "depends_on": info.depends_on.model_copy(update={"settings": settings}),
            "validation": info.validation.model_copy(update={"epoch_kept": kept}),
            "base": "owner/name",
        }
    )


def make_run(
    context: ChainContext,
    stage: str = "01",
    *,
    info: StageInfo | None = None,
    inherited: Sequence[EpochScore] = (),
    scores: Sequence[EpochScore] = (),
    processes: Processes | None = None,
    **inputs: Any,
) -> StageRun:
    """A run of `stage` on the parent that `info` is of; `inputs` replace fields of its StageInputs."""
    of = find_stage(stage)
    settings = StageSettings(**deciding_settings(context.config, context.entry, of))
    depends_on = TrainingInputs(
        parent=ParentIdentity(folder="00_trained/tiny", adapter_sha256="a" * 64, base_sha256="b" * 64),
        data=DataIdentity(sources="c" * 64, dev="d" * 64),
        settings=settings,
        seed=context.config.seed,
    )
    root = context.workspace.root
    fields: dict[str, Any] = {
        "parent": Parent(root / "parent", root / "base", info or parent_info(context)),
        "encoder": cast(Any, "the encoder"),
        "questions": ExamQuestions(QUESTIONS, QUESTIONS, [EXAM_SOURCE]),
        "task": Task(),
        "replay": None,
        "depends_on": depends_on,
        "fingerprint": FINGERPRINT,
        "inherited": list(inherited),
        **inputs,
    }
    path = context.workspace.run_state(stage, context.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = RunRecord(path, FINGERPRINT, scores=list(scores))
    runtime = Runtime(torch.device("cpu"), torch.float32, processes or Processes())
    return StageRun(context, runtime, of, StageInputs(**fields), record, cast(Any, NoLedger()))
