"""The quick look's sample: names that a small model learns in minutes, and an exam about them.

`python -m lorachain.data.quick_look DIRECTORY` writes both from the embedded dictionary. They are kept in the package
as files, so that they are a source like any other; a test makes them again and compares.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam_writer import write_exam, write_json_lines
from lorachain.data.make_exam import make_exam
from lorachain.data.splits import Split
from lorachain.records import ExamQuestion, Term

SUBJECT = "names"
CATEGORIES = 16
PER_CATEGORY = 10
LONGEST_TERM = 9
LONGEST_ENGLISH = 32
"""In characters: a long name takes a 270M model more epochs than there is time for."""
_DEV_FRACTION = 0.5


def quick_look_entries(entries: Iterable[Term]) -> list[Term]:
    """Names without definitions: the first `PER_CATEGORY` short ones of the first `CATEGORIES` categories that have
    so many."""
    short = [
        replace(entry, definition=None)
        for entry in entries
        if entry.english and len(entry.english) <= LONGEST_ENGLISH and len(entry.term) <= LONGEST_TERM
    ]
    sizes = Counter(entry.category for entry in short)
    categories = [category for category, size in sizes.items() if size >= PER_CATEGORY][:CATEGORIES]
    return [
        entry
        for category in categories
        for entry in [entry for entry in short if entry.category == category][:PER_CATEGORY]
    ]


def quick_look_exam(entries: Sequence[Term]) -> dict[Split, list[ExamQuestion]]:
    """The dictionary exam of the entries, half of them held out, with reasoning that recalls the entry."""
    english = {entry.english: entry.term for entry in entries}
    exam = make_exam(entries, seed=0, dev_fraction=_DEV_FRACTION, subject=SUBJECT)
    return {
        split: [
            replace(
                question,
                reasoning=f"{english[question.answer_text]}의 영어 이름은 {question.answer_text}이다.",
                exam="",
            )
            for question in questions
        ]
        for split, questions in exam.items()
    }


def write_quick_look(directory: Path) -> list[Path]:
    """Writes `dictionary.jsonl` and `exam/names/{train,dev}.jsonl`; returns the files.

    Raises:
        DataError: the exam exists, or a file cannot be written.
    """
    entries = quick_look_entries(load_dictionary(["sample"]).entries)
    path = directory / "dictionary.jsonl"
    rows = [{"term": entry.term, "english": entry.english, "category": entry.category} for entry in entries]
    exam = write_exam(quick_look_exam(entries), directory / "exam")
    write_json_lines(path, rows)
    return [path, *exam]


if __name__ == "__main__":
    for written in write_quick_look(Path(sys.argv[1])):
        print(written)
