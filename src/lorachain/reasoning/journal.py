"""What a writing run has finished, kept so that an interruption costs one unit of questions.

A JSONL file: a header that identifies the run, then one line per unit. More samples only add lines.
"""

import json
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from lorachain.append_file import append_line, drop_cut_off_line, read_complete_lines
from lorachain.artifacts.reasoning import WrittenSample, WrittenUnit
from lorachain.artifacts.schema import first_problem
from lorachain.errors import DataError
from lorachain.prompts import AnswerStyle
from lorachain.reasoning.orders import in_order
from lorachain.reasoning.requests import split_sample
from lorachain.reasoning.sample import Check, Sample, Written
from lorachain.records import ExamQuestion

VERSION = 2


class ReasoningJournal:
    """The journal at `path` of the run with this identity."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.header = {"journal_version": VERSION, **identity}

    def read(self) -> list[WrittenUnit] | None:
        """The finished units; None where the file belongs to a run with other settings or data. A last line that an
        interruption cut off is dropped from the file.

        Raises:
            DataError: the file is damaged. WorkspaceError: it is a link or not a regular file.
        """
        complete = read_complete_lines(self.path)
        if not complete.lines:
            drop_cut_off_line(self.path, complete)
            return []
        try:
            header = json.loads(complete.lines[0])
        except (ValueError, RecursionError) as error:
            raise self._damaged(1, str(error)) from error
        if header != self.header:
            return None
        units = []
        for number, line in enumerate(complete.lines[1:], start=2):
            try:
                units.append(WrittenUnit.model_validate_json(line, strict=True))
            except ValidationError as error:
                raise self._damaged(number, first_problem(error)) from error
        drop_cut_off_line(self.path, complete)
        return units

    def append(self, unit: WrittenUnit) -> None:
        header = json.dumps(self.header, ensure_ascii=False, sort_keys=True)
        append_line(self.path, json.dumps(unit.as_dict(), ensure_ascii=False), header=header)

    def _damaged(self, number: int, reason: str) -> DataError:
        return DataError(
            f"{self.path}:{number}: the unfinished writing run is damaged ({reason}); delete the file to start again"
        )


def stored_sample(sample: Sample) -> WrittenSample:
    """A checked sample as the journal holds it."""
    written = sample.written
    a, b, c, d, e = written.order
    return WrittenSample(
        question=written.question,
        number=written.number,
        order=(a, b, c, d, e),
        hinted=written.hinted,
        text=written.text,
        tokens=written.tokens,
        finish=written.finish,
        failed=tuple(sample.failed),
        shuffled_choices=sample.shuffled_choices,
        support=sample.support,
        support_gain=sample.support_gain,
    )


def restored_sample(stored: WrittenSample, question: ExamQuestion, style: AnswerStyle) -> Sample:
    """The checked sample that the journal holds, of a model that answers in this style."""
    written = Written(
        stored.question, stored.number, stored.order, stored.hinted, stored.text, stored.tokens, stored.finish
    )
    sample = split_sample(written, in_order(question, stored.order), style)
    sample.failed = cast(list[Check], list(stored.failed))
    sample.shuffled_choices = stored.shuffled_choices
    sample.support, sample.support_gain = stored.support, stored.support_gain
    return sample
