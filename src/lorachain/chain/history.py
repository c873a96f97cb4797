"""The validation history: what every stage and epoch scored, and what a run in progress has found so far."""

import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorachain.errors import DataError, WorkspaceError
from lorachain.evaluation.validation import PROTOCOL_VERSIONS, ValidationResult
from lorachain.provenance import SCHEMA_VERSION, VALIDATION_RESULTS, as_written, read_json, write_json

RUN_RECORD = "run.json"


@dataclass(slots=True)
class EpochScore:
    """One validation: epoch 0 is before training."""

    stage: str
    epoch: int
    step: int
    at: str
    result: dict[str, Any]
    compared_with: dict[str, Any] = field(default_factory=dict)
    """Exact McNemar against "stage start" and "base model", where the questions are the same."""

    @property
    def validation(self) -> ValidationResult:
        return ValidationResult.from_dict(self.result)

    @property
    def words(self) -> str:
        """The epoch, and the score by each protocol with its interval and n."""
        parts = []
        for found in self.result["protocols"].values():
            low, high = found["wilson95"]
            parts.append(
                f"{found['protocol']}/{found['version']} {100 * found['accuracy']:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}] n={found['n']} ({found['split']})"
            )
        return f"{'before' if self.epoch == 0 else f'epoch {self.epoch}'}: " + ", ".join(parts)


def score(stage: str, epoch: int, step: int, result: ValidationResult, earlier: "list[EpochScore]") -> EpochScore:
    """A validation as a line of the history, compared with the stage's start and the chain's first line."""
    compared: dict[str, Any] = {}
    starts = {
        "stage start": next((e for e in earlier if e.stage == stage and e.epoch == 0), None),
        "base model": next((e for e in earlier if e.epoch == 0), None),
    }
    for name, start in starts.items():
        if start is not None and start.validation.data_sha256 == result.data_sha256:
            compared[name] = result.compare_to(start.validation, other=f"the {name}")
    return EpochScore(stage, epoch, step, time.strftime("%Y-%m-%dT%H:%M:%S%z"), result.as_dict(), compared)


def read_history(folder: Path) -> list[EpochScore]:
    """The history in a folder, oldest first; empty where there is none."""
    path = folder / VALIDATION_RESULTS
    if not path.exists():
        return []
    with as_written(path):
        return _scores(read_json(path)["results"])


def _scores(stored: list[dict[str, Any]]) -> list[EpochScore]:
    """Lines of a history as a file has them.

    What later code will ask of them is asked here, where the file can be named: raises KeyError, TypeError,
    AttributeError or ValueError where a line is not one.
    """
    scores = [EpochScore(**line) for line in stored]
    for line in scores:
        try:
            validation = line.validation
        except DataError as error:
            raise ValueError(str(error)) from error
        if not (isinstance(line.words, str) and isinstance(line.step, int) and isinstance(line.epoch, int)):
            raise TypeError("a line without words or numbers")
        if not (isinstance(validation.data_sha256, str) and isinstance(validation.split, str)):
            raise TypeError("a line that does not name its questions")
        for protocol in PROTOCOL_VERSIONS:
            validation.correct(protocol)
    return scores


def write_history(folder: Path, scores: list[EpochScore]) -> None:
    write_json(
        folder / VALIDATION_RESULTS, {"schema_version": SCHEMA_VERSION, "results": [asdict(line) for line in scores]}
    )


@dataclass(slots=True)
class RunRecord:
    """What a running stage has found, so that an interruption loses nothing; replaced as a whole at each change."""

    path: Path
    fingerprint: str
    before: dict[str, Any] | None = None
    """The stage's own measure before training (perplexity, recall)."""
    scores: list[EpochScore] = field(default_factory=list)
    moved_aside: Path | None = None
    """Where an earlier run that cannot be gone on with lies now."""

    @staticmethod
    def open(run: Path, fingerprint: str) -> "RunRecord":
        """The record of this fingerprint; a run with other settings or data, or whose record is broken, is moved
        aside (one of them is kept)."""
        path = run / RUN_RECORD
        if path.exists():
            with suppress(WorkspaceError), as_written(path):
                stored = read_json(path)
                if stored["fingerprint"] == fingerprint:
                    return RunRecord(path, fingerprint, stored["before"], _scores(stored["scores"]))
        aside = None
        if any(run.glob("[!.]*")):  # hidden is what a killed write left
            aside = run.with_name(f".{run.name}.superseded")
            shutil.rmtree(aside, ignore_errors=True)
            run.rename(aside)
        run.mkdir(parents=True, exist_ok=True)
        record = RunRecord(path, fingerprint, moved_aside=aside)
        record.write()
        return record

    def write(self) -> None:
        stored = {
            "fingerprint": self.fingerprint,
            "before": self.before,
            "scores": [asdict(line) for line in self.scores],
        }
        write_json(self.path, stored)

    def put(self, line: EpochScore) -> None:
        """Adds a line, in place of one for the same epoch: a step that is repeated after a kill leaves one row."""
        self.scores = [s for s in self.scores if s.epoch != line.epoch] + [line]
        self.write()

    def forget_after(self, step: int) -> None:
        """Drops what was measured after `step`: those epochs are trained, and measured, again."""
        kept = [line for line in self.scores if line.step <= step]
        if len(kept) < len(self.scores):
            self.scores = kept
            self.write()

    def score_of(self, epoch: int) -> EpochScore | None:
        return next((line for line in self.scores if line.epoch == epoch), None)

    def best(self, protocol: str, up_to: int | None = None) -> EpochScore | None:
        """The epoch with the most right answers by `protocol`, of those that ended by step `up_to`; of equals the
        earlier. None before the first."""
        best: EpochScore | None = None
        ended = (s for s in self.scores if s.epoch > 0 and (up_to is None or s.step <= up_to))
        for line in sorted(ended, key=lambda s: s.epoch):
            if best is None or line.validation.better_than(best.validation, protocol):
                best = line
        return best
