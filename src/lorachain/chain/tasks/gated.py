"""The data gates of a stage's task, and the report that they leave beside its tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from lorachain.artifacts.data_gates import DataReport
from lorachain.chain.tasks.base import TaskInputs
from lorachain.data.gates.names import names_model_sha256
from lorachain.data.gates.screen import DataGates, open_data_gates
from lorachain.data.gates.views import View
from lorachain.data.sources import SourceInfo
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file
from lorachain.workspace import data_report

R = TypeVar("R")
HELD_OUT = "dev and few-shot"


def open_gates(inputs: TaskInputs, view: View[R]) -> DataGates[R]:
    """The gates for records of one kind, with the questions that are held out.

    Raises:
        ConfigError, WorkspaceError, DataError: as `DataGates`.
    """

    def on_progress(records: int, characters: int) -> None:
        inputs.on_message(f"{records:,} {view.singular} records checked ({characters / 1e6:,.0f} M characters)")

    journal = data_report(inputs.cache).with_suffix(".part.jsonl")
    return open_data_gates(view, inputs.data, {HELD_OUT: inputs.held_out}, on_progress=on_progress, journal=journal)


def gate_identity(inputs: TaskInputs) -> dict[str, Any]:
    """What decides which records the gates keep, for caches."""
    hashes = [sha256_file(Path(name).expanduser()) for name in inputs.data.contamination.hashes]
    personal = inputs.data.personal
    names = {"names": names_model_sha256(personal.names_model)} if personal.names == "ner" else {}
    return {"settings": inputs.data.deciding(), "hashes": hashes, **names}


def write_report(inputs: TaskInputs, gates: DataGates[Any], sources: Sequence[SourceInfo]) -> DataReport:
    """Writes what was found beside the task's tokens, says what was left out, and returns it."""
    report = gates.report([source.name for source in sources])
    path = data_report(inputs.cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_written(report, path):  # by another process of this run
        report.write(path)
    left_out = report.records - report.kept
    if left_out or report.personal.kinds or report.contamination.records:
        inputs.on_message(f"{left_out:,} of {report.records:,} records were left out or have findings: {path}")
    return report


def _is_written(report: DataReport, path: Path) -> bool:
    try:
        return DataReport.read(path) == report
    except WorkspaceError:
        return False


def has_report(inputs: TaskInputs) -> bool:
    """Whether the report of an earlier start is there."""
    return data_report(inputs.cache).is_file()


def other_counts(report: DataReport) -> dict[str, int]:
    """What else than exam questions was left out or masked, for people; only what occurred."""
    return nonzero(
        duplicates_left_out=report.duplicates.removed if report.duplicates else 0,
        below_quality_limits_left_out=max((measure.removed for measure in report.quality.values()), default=0),
        records_with_masked_personal_data=report.personal.masked,
    )


def nonzero(**counts: int) -> dict[str, int]:
    """The counts that are not 0."""
    return {name: count for name, count in counts.items() if count}
