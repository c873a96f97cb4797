"""Exams written in KorMedMCQA's schema, which `--exam` and plain `datasets` read."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorachain.atomic import replaced_file
from lorachain.data.normalization import normalize_name
from lorachain.data.splits import Split
from lorachain.errors import DataError
from lorachain.records import LETTERS, ExamQuestion


def refuse_existing_exam(out_dir: Path, subject: str, splits: Sequence[Split]) -> None:
    """For a caller to check before the work is done that `write_exam` will not refuse.

    Raises:
        DataError: `out_dir` has a file of this subject.
    """
    for split in splits:
        path = _exam_path(out_dir, normalize_name(subject), split)
        if os.path.lexists(path):
            raise DataError(
                f"{path}: exists already and is not overwritten. Delete it, or choose another directory with --out or "
                "another name with --subject."
            )


def write_exam(
    questions: Mapping[Split, Sequence[ExamQuestion]], out_dir: Path, *, writer: str | None = None
) -> list[Path]:
    """Writes `<subject>/<split>.jsonl` for each split; returns the files.

    Args:
        writer: who wrote the reasoning, as a column of the rows that have some.

    Raises:
        DataError: one of the files exists (nothing is written then), or cannot be written.
    """
    for subject in {question.subject for part in questions.values() for question in part}:
        refuse_existing_exam(out_dir, subject, list(questions))
    by_path: dict[Path, list[ExamQuestion]] = defaultdict(list)
    for split, part in questions.items():
        for question in part:
            by_path[_exam_path(out_dir, question.subject, split)].append(question)
    for path, rows in by_path.items():
        write_json_lines(path, [exam_row(question) | _by(question, writer) for question in rows])
    return list(by_path)


def write_json_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows as lines of JSON; a file of that name is complete.

    Raises:
        DataError: it cannot be written. WorkspaceError: the disk is full, it is a link, or no file can be there.
    """
    try:
        with replaced_file(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}). Choose another directory with --out.") from error


def exam_row(question: ExamQuestion) -> dict[str, object]:
    """The question as a row. Its id is that of the numbers in it, or of its content where it has none."""
    numbers = question.id.removeprefix(f"{question.subject}-").split("-")
    numbered = len(numbers) == 3 and all(number.isdecimal() for number in numbers)
    return {
        "subject": question.subject,
        **(dict(zip(("year", "period", "q_number"), map(int, numbers), strict=True)) if numbered else {}),
        "question": question.question,
        **dict(zip(LETTERS, question.options, strict=True)),
        "answer": question.answer + 1,
        "cot": question.reasoning or "",
    }


def _by(question: ExamQuestion, writer: str | None) -> dict[str, object]:
    return {"reasoning_writer": writer} if writer and question.reasoning else {}


def _exam_path(out_dir: Path, subject: str, split: Split) -> Path:
    return out_dir / subject / f"{split}.jsonl"
