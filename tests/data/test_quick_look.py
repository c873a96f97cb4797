"""The quick look's names and exam are what their module makes from the embedded dictionary."""

from pathlib import Path

import pytest

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.quick_look import CATEGORIES, PER_CATEGORY, write_quick_look
from lorachain.data.sources import QUICK_LOOK, resolve
from lorachain.errors import DataError


def test_the_files_in_the_package_are_those_that_the_dictionary_gives(tmp_path: Path) -> None:
    kept = resolve(QUICK_LOOK, sample="dictionary.jsonl").path
    assert kept is not None
    for path in write_quick_look(tmp_path):
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (kept.parent / name).read_bytes(), f"make {name} again (data/quick_look.py)"


def test_every_question_is_about_one_name_of_one_split() -> None:
    entries = load_dictionary([QUICK_LOOK]).entries
    train, dev = (load_exam([QUICK_LOOK], split).questions for split in ("train", "dev"))
    assert len(entries) == CATEGORIES * PER_CATEGORY == len(train) + len(dev)
    assert all(entry.definition is None for entry in entries)
    english = {entry.term: entry.english for entry in entries}
    asked = {}
    for question in (*train, *dev):
        term = question.question.removeprefix("다음 용어의 영어 이름은? ")
        assert question.answer_text == english[term]
        assert question.reasoning == f"{term}의 영어 이름은 {english[term]}이다."
        asked[term] = question
    assert len(asked) == len(entries)
    shown = [{option for question in questions for option in question.options} for questions in (train, dev)]
    assert not shown[0] & {question.answer_text for question in dev}
    assert not shown[1] & {question.answer_text for question in train}


def test_it_has_no_plain_text() -> None:
    with pytest.raises(DataError, match=r"sample:quick-look: the installed package lacks plain_text\.jsonl"):
        list(stream_plain_text([QUICK_LOOK]))
