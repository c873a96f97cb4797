"""Which file of a directory is which split of an exam, and which subject it belongs to."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from lorachain.data.normalization import normalize_name
from lorachain.data.sources import walk
from lorachain.data.splits import SPLITS, Split
from lorachain.data.tables import TABLE_SUFFIXES

_SPLIT = rf"(?P<split>{'|'.join(SPLITS)})(?:-\d+-of-\d+)?"  # the hub's -00000-of-00001
_NAMES = (
    re.compile(rf"(?:(?P<subject>.+)[_-])?{_SPLIT}", re.IGNORECASE),
    re.compile(rf"{_SPLIT}[_-](?P<subject>.+)", re.IGNORECASE),
)
PROFESSIONS = frozenset({"doctor", "nurse", "pharm", "dentist", "의사", "간호사", "약사", "치과의사", "한의사"})
"""Names that are always subjects: KorMedMCQA's configurations, and the professions in Korean."""
_CONTAINERS = frozenset(
    {"data", "dataset", "datasets", "exam", "exams", "questions", "raw", "json", "jsonl", "csv", "tsv", "parquet",
     "xlsx", "ods", "default", "all", "kormedmcqa"}
)  # fmt: skip


class ExamFile(NamedTuple):
    path: Path
    split: Split
    subject: str | None
    """From the file's or a directory's name; None where only the rows can say."""


def exam_files(root: Path) -> list[ExamFile]:
    """The files of an exam, sorted by path: `<subject>/<split>.*`, `<subject>_<split>.*`, `<split>_<subject>.*` (or
    with `-`), `<split>/<subject>.*`, or `<split>.*` with a `subject` column, also in shards as the hub stores them. A
    file for which neither its own name nor a directory's states a split is training data.

    Raises:
        DataError: the directory has no table, or `walk` refuses it.
    """
    return [_exam_file(path, root) for path in walk(root, TABLE_SUFFIXES)]


def _exam_file(path: Path, root: Path) -> ExamFile:
    stem = normalize_name(path.stem)
    directories = [normalize_name(parent.name) for parent in path.parents if parent != root and root in parent.parents]
    names = list(directories)
    split: Split | None = None
    if match := next(filter(None, (pattern.fullmatch(stem) for pattern in _NAMES)), None):
        split = SPLITS[match["split"].casefold()]
        if match["subject"]:
            names.insert(0, match["subject"])
    elif split := next((SPLITS[name.casefold()] for name in directories if name.casefold() in SPLITS), None):
        names.insert(0, stem)
    subject = next(filter(is_subject_name, names), None)
    above = normalize_name(Path(os.path.abspath(root if root.is_dir() else root.parent)).name)
    if subject is None and above.casefold() in PROFESSIONS:
        subject = above
    return ExamFile(path, split or "train", subject)


def is_subject_name(name: str) -> bool:
    """Whether a file's or directory's name can be a subject: not a date or number (`2022`, `02_kor_med_test`), a split
    (`dev`, `my_test`) or a general word (`data`, `exam`)."""
    folded = name.casefold()
    last_word = re.split(r"[\W_]+", folded)[-1]
    return bool(folded) and not folded[0].isdigit() and last_word not in SPLITS and folded not in _CONTAINERS
