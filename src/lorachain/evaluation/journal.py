"""The finished batches of an evaluation in progress, kept so that an interruption costs one batch."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorachain.atomic import disk_full_as_error
from lorachain.errors import DataError
from lorachain.evaluation.protocols.base import QuestionResult

JOURNAL_VERSION = 2


class Journal:
    """A JSONL file beside the result: a header that identifies the evaluation, then one line per finished batch."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.path = out.with_name(f"{out.name}.unfinished.jsonl")
        # As it comes back from the file: tuples become lists.
        self.identity = json.loads(json.dumps(identity))

    def read(self) -> Iterator[tuple[list[QuestionResult], float]]:
        """Batches in order. A last line that was cut off by the interruption is dropped from the file.

        Raises:
            DataError: the file belongs to another evaluation.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")
        whole = [line for line in lines[:-1] if line]  # what follows the last newline was cut off
        if whole and json.loads(whole[0]) != self.identity:
            header = json.loads(whole[0])
            other = [key for key, value in self.identity.items() if header.get(key) != value]
            raise DataError(
                f"{self.path} is an unfinished evaluation with another {', '.join(other)}; "
                "finish that one, delete the file, or choose another --out"
            )
        if lines[-1]:
            self.path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        for line in whole[1:]:
            batch = json.loads(line)
            yield [_result_from_json(row) for row in batch["rows"]], batch["seconds"]

    def append(self, rows: Sequence[QuestionResult], seconds: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_as_error(self.path), self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(json.dumps(self.identity, ensure_ascii=False) + "\n")
            batch = {"seconds": seconds, "rows": [asdict(row) for row in rows]}
            file.write(json.dumps(batch, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _result_from_json(stored: dict[str, Any]) -> QuestionResult:
    logprobs = stored["logprobs"]
    return QuestionResult(**{**stored, "logprobs": None if logprobs is None else tuple(logprobs)})
