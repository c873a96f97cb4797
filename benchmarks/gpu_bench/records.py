"""Results as lines of JSON, each on disk before the next is measured: what cuts a run leaves what it has measured."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE, SKIPPED, FAILED, CUT = "done", "skipped", "failed", "cut"


class StepSkippedError(Exception):
    """Why a step cannot be run here."""


@dataclass(frozen=True)
class Setting:
    """What every step gets."""

    device: str
    size: str
    """`full` or `tiny`."""
    out: str
    tokenizer: str | None = None
    workloads: tuple[str, ...] = ()
    """Files of `training_bench.workloads.write_workload`, made on another machine; without one, random ids."""
    minutes: float = 8.0

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"

    @property
    def model(self) -> str:
        """A name of `training_bench.models.SHAPES`."""
        return "tiny" if self.tiny else "medgemma-4b"

    def write(self, step: str, **figures: Any) -> None:
        append(Path(self.out), {"step": step, **figures})


def append(path: Path, record: dict[str, Any]) -> None:
    """Adds a line and flushes it to the disk. A line that a cut left incomplete is ended first."""
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def finished(path: Path) -> set[str]:
    """The steps that need not be run again."""
    return {record["step"] for record in read(path) if record.get("status") in (DONE, SKIPPED)}
