"""Which file of a folder is which subject and split of an exam."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from lorachain.data.rows import TABLE_SUFFIXES
from lorachain.data.sources import walk

Split = Literal["train", "dev", "fewshot", "test"]
_SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "fewshot": "fewshot",
    "few-shot": "fewshot",
    "few_shot": "fewshot",
    "test": "test",
}
_NAME = re.compile(
    rf"(?:(?P<subject>.+)[_-])?(?P<split>{'|'.join(_SPLITS)})(?:-\d+-of-\d+)?",  # the hub's -00000-of-00001
    re.IGNORECASE,
)


class ExamFile(NamedTuple):
    path: Path
    split: Split
    subject: str | None
    """From the folder or the file's name; None where only the rows can say."""


def exam_files(root: Path) -> list[ExamFile]:
    """The files of an exam, sorted by path: `<subject>/<split>.*`, `<subject>_<split>.*`, `<subject>-<split>.*`, or
    `<split>.*` with a `subject` column, also in shards as the hub stores them. A file whose name says no split is
    taken as training questions: nobody's held-out questions are guessed.

    Raises:
        DataError: the folder holds no table.
    """
    files = []
    for path in walk(root, TABLE_SUFFIXES):
        match = _NAME.fullmatch(path.stem)
        folder = path.parent.name if path.parent != root and path != root and path.parent.name != "data" else None
        if match is None:
            files.append(ExamFile(path, "train", folder))
        else:
            files.append(ExamFile(path, _SPLITS[match["split"].casefold()], match["subject"] or folder))
    return files


def canonical_split(name: str) -> Split | None:
    """The split that a hub's split name stands for."""
    return _SPLITS.get(name.casefold())
