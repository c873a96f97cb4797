"""The finished batches of an evaluation in progress, kept so that an interruption costs one batch."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from lorachain.append_file import append_line, drop_cut_off_line, read_complete_lines
from lorachain.artifacts.schema import Record, first_problem
from lorachain.errors import DataError
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.records import ExamQuestion

JOURNAL_VERSION = 2


class Batch(Record):
    """A line of the journal: the results of one batch of questions, in their order."""

    seconds: Annotated[float, Field(ge=0)]
    rows: tuple[QuestionResult, ...]


class Journal:
    """A JSONL file beside the result: a header that identifies the evaluation, then one line per finished batch.

    `detail_type` is the protocol's.
    """

    def __init__(self, out: Path, identity: dict[str, Any], detail_type: type[Record]) -> None:
        self._detail_type = detail_type
        self.path = out.with_name(f"{out.name}.unfinished.jsonl")
        # As it comes back from the file: tuples become lists.
        self.identity = json.loads(json.dumps(identity))

    def read(self, batches: Sequence[Sequence[ExamQuestion]]) -> list[Batch]:
        """The finished ones of `batches`. A last line that was cut off by the interruption is dropped from the file.

        Raises:
            DataError: the file belongs to another evaluation, or is damaged.
            WorkspaceError: it is a link or not a regular file.
        """
        try:
            complete = read_complete_lines(self.path)
            header = json.loads(complete.lines[0]) if complete.lines else self.identity
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(1, str(error)) from error
        if isinstance(header, dict):  # what has no prompt version was written before there was one
            header = {"prompt_version": 1, **header}
        if header != self.identity:
            self._refuse_other(header)
        if len(complete.lines) > len(batches) + 1:
            raise self._damaged(len(complete.lines), "there are more batches than in the evaluation")
        finished = [self._batch(number, line) for number, line in enumerate(complete.lines[1:], start=2)]
        for number, (batch, questions) in enumerate(zip(finished, batches, strict=False), start=2):
            if list(map(_question_of, batch.rows)) != [(q.exam, q.id, q.subject, q.answer) for q in questions]:
                raise self._damaged(number, "its questions are not those of the batch")
        drop_cut_off_line(self.path, complete)
        return finished

    def append(self, rows: Sequence[QuestionResult], seconds: float) -> None:
        batch = {"seconds": seconds, "rows": [asdict(row) for row in rows]}
        header = json.dumps(self.identity, ensure_ascii=False)
        append_line(self.path, json.dumps(batch, ensure_ascii=False), header=header)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _batch(self, number: int, line: bytes) -> Batch:
        try:
            batch = Batch.model_validate_json(line, strict=True)
            for row in batch.rows:
                self._detail_type.model_validate(row.detail, strict=True)
        except ValidationError as error:
            raise self._damaged(number, first_problem(error)) from error
        return batch

    def _refuse_other(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise self._damaged(1, "it is not an object")
        others = [key for key, value in self.identity.items() if header.get(key) != value] or ["header"]
        raise DataError(
            f"{self.path} is an unfinished evaluation with another {', '.join(others)}; "
            "finish that one, delete the file, or choose another --out"
        )

    def _damaged(self, number: int, reason: str) -> DataError:
        return DataError(
            f"{self.path}:{number}: the unfinished evaluation is damaged ({reason}); delete the file to start again, "
            "or choose another --out"
        )


def _question_of(row: QuestionResult) -> tuple[str, str, str, int]:
    return row.exam, row.id, row.subject, row.gold
