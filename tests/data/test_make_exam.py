import random
import unicodedata
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from lorachain.data.decontamination import ExamScreen, normalized
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.exam_writer import refuse_existing_exam, write_exam
from lorachain.data.make_exam import MASK, make_exam
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.records import ExamQuestion, Term


def dictionary(count: int = 200, *, categories: int = 0, seed: int = 0) -> list[Term]:
    """Names of random length; every third entry has an English name only, every third a definition only."""
    rng = random.Random(seed)
    entries = []
    for i in range(count):
        english = "".join(rng.choices("abcdefgh", k=rng.randint(6, 30)))
        definition = f"질병{i}은 몸의 {i}번째 자리에 생기는 병이다."
        entries.append(
            Term(
                f"질병{i}",
                definition if i % 3 != 1 else None,
                english if i % 3 != 2 else None,
                f"A{i % categories:02}" if categories else None,
            )
        )
    return entries


def everything(exam: dict[str, list[ExamQuestion]]) -> list[ExamQuestion]:
    return exam["train"] + exam["dev"]


def term_behind(question: ExamQuestion, entries: list[Term]) -> Term:
    """The entry that a question was made from."""
    given = question.question.split("? ", 1)[1]
    for entry in entries:
        if entry.term == given or (entry.definition and entry.definition.replace(entry.term, MASK) == given):
            return entry
    raise AssertionError(given)


def test_each_entry_is_asked_once_in_one_split_with_the_right_answer() -> None:
    entries = dictionary()
    exam = make_exam(entries, seed=1)
    behind = {split: [term_behind(q, entries) for q in part] for split, part in exam.items()}
    assert len(exam["dev"]) == 60
    assert Counter(behind["train"] + behind["dev"]) == Counter(entries)
    for question in everything(exam):  # type: ignore[arg-type]
        entry = term_behind(question, entries)
        assert question.answer_text == (entry.english if "영어" in question.question else entry.term)
        assert len(set(map(normalized, question.options))) == 5
        assert entry.term not in question.question or "영어" in question.question
    kinds = Counter("영어" in q.question for q in everything(exam))  # type: ignore[arg-type]
    assert min(kinds.values()) > 80


def test_no_option_of_dev_was_seen_in_train() -> None:
    exam = make_exam(dictionary(), seed=2)
    seen = {option for question in exam["train"] for option in question.options}
    assert not seen & {option for question in exam["dev"] for option in question.options}
    screen = ExamScreen(exam["dev"])
    assert not any(screen.same_question(question) for question in exam["train"])


def test_deterministic_in_the_seed() -> None:
    assert make_exam(dictionary(), seed=3) == make_exam(dictionary(), seed=3)
    assert make_exam(dictionary(), seed=3) != make_exam(dictionary(), seed=4)


def test_synonyms_are_never_options_against_each_other_nor_split() -> None:
    entries = dictionary(60)
    entries += [Term(f"다른 이름 {i}", None, entry.english) for i, entry in enumerate(entries) if entry.english]
    entries += [Term(entry.term, None, f"synonym {i}") for i, entry in enumerate(entries[:30])]
    names: dict[str, set[str | None]] = {}
    for entry in entries:
        names.setdefault(entry.term, set()).add(entry.english)
    for seed in range(5):
        exam = make_exam(entries, seed=seed)
        for question in everything(exam):  # type: ignore[arg-type]
            if "영어" in question.question:
                right = names[question.question.split("? ")[1]]
                assert sum(option in right for option in question.options) == 1
        split_of: dict[str, set[str]] = {}
        for split, part in exam.items():
            for question in part:
                if "영어" in question.question:
                    split_of.setdefault(question.answer_text, set()).add(split)
        assert all(len(splits) == 1 for splits in split_of.values())


def test_definitions_that_differ_only_in_the_term_are_one_concept() -> None:
    twins = [Term(f"쌍둥이{i}", f"쌍둥이{i}는 같은 설명이다.") for i in "가나다"]
    entries = [entry for entry in dictionary(40) if entry.definition] + twins
    for seed in range(10):
        for question in everything(make_exam(entries, seed=seed)):  # type: ignore[arg-type]
            assert sum(option.startswith("쌍둥이") for option in question.options) <= 1


def test_distractors_come_from_the_category() -> None:
    entries = [Term(f"병{i}", None, f"disease {chr(97 + i % 26)}{i}", f"A{i % 10:02}") for i in range(400)]
    category = {entry.english: entry.category for entry in entries}
    for question in everything(make_exam(entries, seed=5)):  # type: ignore[arg-type]
        assert len({category[option] for option in question.options}) == 1


def test_a_category_too_small_is_filled_from_the_rest() -> None:
    entries = [Term(f"병{i}", None, f"disease number {i:03}", f"A{i // 2:02}") for i in range(200)]
    exam = make_exam(entries, seed=6)
    assert len(everything(exam)) == 200  # type: ignore[arg-type]


def test_neither_position_nor_length_reveals_the_answer() -> None:
    questions = everything(make_exam(dictionary(900), seed=7))  # type: ignore[arg-type]
    english = [q for q in questions if "영어" in q.question]
    positions = Counter(q.answer for q in questions)
    assert all(abs(positions[i] / len(questions) - 0.2) < 0.03 for i in range(5))
    ranks = [0.0] * 5
    for question in english:
        lengths, right = [len(option) for option in question.options], len(question.answer_text)
        first, ties = sum(length < right for length in lengths), lengths.count(right)
        for rank in range(first, first + ties):
            ranks[rank] += 1 / (ties * len(english))
    assert all(0.15 < share < 0.25 for share in ranks)
    spread = sum(max(map(len, q.options)) - min(map(len, q.options)) for q in english) / len(english)
    assert spread < 3  # the names are 6 to 30 long


def test_limit() -> None:
    exam = make_exam(dictionary(), seed=8, limit=50)
    assert (len(exam["train"]), len(exam["dev"])) == (35, 15)
    assert len(everything(make_exam(dictionary(), seed=8, limit=1000))) == 200  # type: ignore[arg-type]


def test_five_entries_are_enough_and_four_are_not() -> None:
    assert sum(map(len, make_exam(dictionary(5 * 3)[::3], seed=9).values())) == 5
    with pytest.raises(DataError, match=r"at least 5 entries .* found 4"):
        make_exam(dictionary(4), seed=9)
    with pytest.raises(DataError, match="found 1"):
        make_exam([Term(f"병{i}", None, "the same") for i in range(9)], seed=9)
    only_itself = [Term(f"병{i}", f"병{i}") for i in range(9)]
    with pytest.raises(DataError, match="found 0"):
        make_exam(only_itself, seed=9)


@pytest.mark.parametrize(
    "options", [{"dev_fraction": 0.0}, {"dev_fraction": 1.0}, {"limit": 1}, {"subject": "../x"}, {"subject": ""}]
)
def test_settings_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"expected .* found"):
        make_exam(dictionary(), seed=0, **options)  # type: ignore[arg-type]


def test_written_and_read_again(tmp_path: Path) -> None:
    exam = make_exam(dictionary(40), seed=10, subject="my-probe")
    files = write_exam(exam, tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "out/my-probe/train.jsonl",
        "out/my-probe/dev.jsonl",
    ]
    for split in ("train", "dev"):
        loaded = load_exam([str(tmp_path / "out")], split)
        fields = [(q.id, q.subject, q.question, q.options, q.answer) for q in loaded.questions]
        assert fields == [(q.id, q.subject, q.question, q.options, q.answer) for q in exam[split]]


def test_a_decomposed_subject_is_composed(tmp_path: Path) -> None:
    exam = make_exam(dictionary(40), seed=10, subject=unicodedata.normalize("NFD", "용어"))
    files = write_exam(exam, tmp_path)
    assert files[0] == tmp_path / "용어" / "train.jsonl"
    assert load_exam([str(tmp_path)], "train").questions[0].id == exam["train"][0].id


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    exam = make_exam(dictionary(40), seed=10, subject="probe")
    refuse_existing_exam(tmp_path, "probe", ["train", "dev"])
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "dev.jsonl").symlink_to("gone")  # a link to nothing is something of the user's too
    for write in (
        lambda: write_exam(exam, tmp_path),
        lambda: refuse_existing_exam(tmp_path, "probe", ["train", "dev"]),
    ):
        with pytest.raises(DataError, match=r"probe/dev\.jsonl: exists already and is not overwritten\. Delete it"):
            write()
    assert [path.name for path in (tmp_path / "probe").iterdir()] == ["dev.jsonl"]
    (tmp_path / "probe" / "dev.jsonl").unlink()
    (tmp_path / "probe" / "train.partial").write_text("mine")
    files = write_exam(exam, tmp_path)
    before = [path.read_bytes() for path in files]
    with pytest.raises(DataError, match="exists already"):
        write_exam(make_exam(dictionary(40), seed=11, subject="probe"), tmp_path)
    assert [path.read_bytes() for path in files] == before
    assert {path.name for path in (tmp_path / "probe").iterdir()} == {"dev.jsonl", "train.jsonl", "train.partial"}
    assert (tmp_path / "probe" / "train.partial").read_text() == "mine"


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError, match=r"train\.jsonl cannot be written: not a directory; choose another place"):
        write_exam(make_exam(dictionary(40), seed=10), tmp_path / "file")


def test_real_dictionaries_give_an_exam(real_data: Path) -> None:
    for name in ("kcd", "dictionary"):
        entries = load_dictionary([str(real_data / name)]).entries
        exam = make_exam(entries, seed=0)
        questions = everything(exam)  # type: ignore[arg-type]
        assert len(questions) > 0.9 * len(entries)
        assert len({q.id for q in questions}) == len(questions)
        assert all(normalized(a) != normalized(b) for q in questions[:2000] for a, b in combinations(q.options, 2))
