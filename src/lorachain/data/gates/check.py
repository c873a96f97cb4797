"""The gates on sources alone, without a chain."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from lorachain.artifacts.data_gates import DataReport, HashedExam
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.gates.hashed_exam import hash_exam
from lorachain.data.gates.screen import open_data_gates
from lorachain.data.gates.views import DICTIONARY, EXAM, INSTRUCT, PLAIN_TEXT, View
from lorachain.data.instruct import load_instructions
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.splits import Split
from lorachain.data_settings import DataConfig
from lorachain.errors import ConfigError
from lorachain.records import ExamQuestion

READINGS: dict[str, View[Any]] = {"plain": PLAIN_TEXT, "dictionary": DICTIONARY, "exam": EXAM, "instruct": INSTRUCT}


def check_sources(
    sources: Sequence[str],
    read_as: str,
    exams: Sequence[str],
    settings: DataConfig,
    *,
    skip_bad_rows: bool = False,
    on_progress: Callable[[int, int], None] = lambda records, characters: None,
    journal: Path | None = None,
) -> DataReport:
    """What the gates find in `sources`; nothing is refused.

    Args:
        read_as: a key of `READINGS`.
        exams: whose dev and few-shot questions are held out.
        journal: where an interrupted check leaves what it has done.

    Raises:
        ConfigError: `read_as` is unknown, or a setting cannot be used. DataError: a source cannot be read.
    """
    if read_as not in READINGS:
        raise ConfigError(f"--as {read_as!r} is unknown; allowed: {', '.join(READINGS)}")
    held_out: list[ExamQuestion] = []
    if exams:
        dev = load_exam(exams, "dev", skip_bad_rows=skip_bad_rows)
        held_out = [*dev.questions, *dev.fewshot]
    gates = open_data_gates(
        READINGS[read_as],
        settings,
        {"dev and few-shot": held_out},
        refuse=False,
        on_progress=on_progress,
        journal=journal,
    )
    for _ in gates.kept(_records(sources, read_as, skip_bad_rows)):
        pass
    return gates.report(sources)


def hash_split(exams: Sequence[str], split: str, *, skip_bad_rows: bool = False) -> HashedExam:
    """The questions of a split as salted hashes.

    Raises:
        ConfigError: `split` is unknown. DataError: a source cannot be read or lacks the split.
    """
    if split not in get_args(Split):
        raise ConfigError(f"--split {split!r} is unknown; allowed: {', '.join(get_args(Split))}")
    return hash_exam(
        split, load_exam(exams, cast(Any, split), skip_bad_rows=skip_bad_rows, allow_test=split == "test").questions
    )


def _records(sources: Sequence[str], read_as: str, skip_bad_rows: bool) -> Iterable[Any]:
    match read_as:
        case "plain":
            return stream_plain_text(sources, skip_bad_rows=skip_bad_rows)
        case "dictionary":
            return load_dictionary(sources, skip_bad_rows=skip_bad_rows).entries
        case "exam":
            return load_exam(sources, "train", skip_bad_rows=skip_bad_rows).questions
        case _:
            return load_instructions(sources, skip_bad_rows=skip_bad_rows).instructions
