"""A question of the chain's exams by its id."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from lorachain.data.exam import load_exam
from lorachain.errors import DataError
from lorachain.records import ExamQuestion


def find_question(sources: Sequence[str], name: str, *, skip_bad_rows: bool = False) -> tuple[ExamQuestion, str]:
    """The question with that id, and its split: dev, fewshot or train. The test split is not read.

    Raises:
        DataError: there is none; proposes similar ids. Or a source cannot be read.
    """
    known: list[str] = []
    for question, split in _questions(sources, skip_bad_rows):
        if question.id == name:
            return question, split
        known.append(question.id)
    close = get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    raise DataError(
        f"no question {name!r} among the {len(known):,} dev, few-shot and train questions of {', '.join(sources)}; "
        f"similar ids: {', '.join(close)}. Name another exam with --exam"
    )


def _questions(sources: Sequence[str], skip_bad_rows: bool) -> Iterator[tuple[ExamQuestion, str]]:
    dev = load_exam(sources, "dev", skip_bad_rows=skip_bad_rows)
    yield from ((question, "dev") for question in dev.questions)
    yield from ((question, "fewshot") for question in dev.fewshot)
    try:
        train = load_exam(sources, "train", skip_bad_rows=skip_bad_rows).questions
    except DataError:  # an exam may have no train split; the others' ids are then proposed
        return
    yield from ((question, "train") for question in train)
