"""KorMedMCQA's schema from every layout; held-out questions stay out of training."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorachain.data.decontamination import without_held_out
from lorachain.data.exam import load_exam, load_fewshot, spread
from lorachain.data.preview import preview_sources
from lorachain.data.staleness import changed_since
from lorachain.errors import DataError

LETTERS = "ABCDE"


def row(subject: str, number: int, **changes: object) -> dict[str, object]:
    options = {letter: f"{letter}번째 선택지" for letter in LETTERS}
    question = {"question": f"{subject} 과목의 {number}번 문항으로 옳은 것은?", **options, "answer": 3, "cot": ""}
    return {"subject": subject, "year": 2021, "period": 1, "q_number": number, **question, **changes}


def save(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ["doctor/{}.jsonl", "nurse/{}.jsonl"],
        ["doctor/{}.csv", "nurse/{}.parquet"],
        ["doctor_{}.json", "nurse_{}.csv"],
        ["doctor-{}.csv", "nurse-{}.jsonl"],
        ["doctor/{}-00000-of-00001.parquet", "nurse/{}-00000-of-00001.parquet"],
        ["{}.parquet"],
        ["data/{}-00000-of-00001.parquet"],
    ],
)
def test_layouts(tmp_path: Path, names: list[str]) -> None:
    root = tmp_path / "exam"
    both = {"train": [1, 2], "dev": [3]}
    for split, numbers in both.items():
        rows = {subject: [row(subject, n) for n in numbers] for subject in ("doctor", "nurse")}
        if len(names) == 1:
            save(root / names[0].format(split), *rows["doctor"], *rows["nurse"])
        else:
            for name, content in zip(names, rows.values(), strict=True):
                save(root / name.format(split), *content)
    loaded = load_exam([str(root)], "train")
    assert [q.id for q in loaded.questions] == [f"{s}-2021-1-{n}" for s in ("doctor", "nurse") for n in (1, 2)]
    assert len(load_exam([str(root)], "dev").questions) == 2
    question = loaded.questions[0]
    assert (question.exam, question.answer, question.answer_text) == ("exam", 2, "C번째 선택지")
    assert question.reasoning is None


def test_subject_from_the_name_where_the_rows_have_none(tmp_path: Path) -> None:
    bare = {key: value for key, value in row("doctor", 1).items() if key != "subject"}
    save(tmp_path / "eye" / "train.jsonl", bare)
    save(tmp_path / "ear_nose-train.jsonl", {**bare, "question": "다른 질문?"})
    assert [q.id for q in load_exam([str(tmp_path)], "train").questions] == ["ear_nose-2021-1-1", "eye-2021-1-1"]


@pytest.mark.parametrize("answer", [2, "2", "B", "b", " b ", "②", "２", 2.0, "2.0", "Ｂ"])
def test_answers(tmp_path: Path, answer: object) -> None:
    path = save(tmp_path / "train.jsonl", row("doctor", 1, answer=answer, reasoning="풀이"))
    question = load_exam([str(path)], "train").questions[0]
    assert (question.answer, question.reasoning) == (1, "풀이")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 0}, "the answer '0' where 1 to 5 or A to E is allowed"),
        ({"answer": 6}, "the answer '6'"),
        ({"answer": "F"}, "the answer 'F'"),
        ({"answer": None}, "the answer None"),
        ({"answer": True}, "answer: bool True"),
        ({"answer": "AB"}, "the answer 'AB'"),
        ({"C": " "}, "no option C"),
        ({"E": None}, "no option E"),
        ({"question": ""}, "no question"),
        ({"A": ["x"]}, "A: list"),
        ({"C": "nan"}, "no option C"),
        ({"answer": "nan"}, "the answer None"),
        ({"answer": 3.5}, "the answer '3.5'"),
    ],
)
def test_bad_rows(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = save(tmp_path / "train.jsonl", row("doctor", 1), row("doctor", 2, **changes))
    with pytest.raises(DataError) as raised:
        load_exam([str(path)], "train")
    assert f"{path}:2: expected a question in the schema subject, year" in str(raised.value)
    assert message in str(raised.value)
    loaded = load_exam([str(path)], "train", skip_bad_rows=True)
    assert (len(loaded.questions), loaded.sources[0].bad_rows) == (1, 1)


def test_few_shot_questions_are_left_out_of_dev(tmp_path: Path) -> None:
    save(tmp_path / "doctor" / "dev.jsonl", *(row("doctor", n) for n in range(1, 6)))
    shuffled = dict(zip("ABCDE", [f"{x}번째  선택지" for x in "EDCBA"], strict=True))
    few = row("doctor", 2, q_number=99, question="doctor 과목의  2번 문항으로 옳은 것은 ?", cot="풀이", **shuffled)
    save(tmp_path / "doctor" / "fewshot.jsonl", few)
    loaded = load_exam([str(tmp_path)], "dev")
    assert [q.id[-1] for q in loaded.questions] == ["1", "3", "4", "5"]
    assert loaded.fewshot_left_out == 1
    assert set(loaded.sources[0].files) == {"doctor/dev.jsonl", "doctor/fewshot.jsonl"}
    assert loaded.fewshot == load_exam([str(tmp_path)], "fewshot").questions
    assert loaded.fewshot[0].reasoning == "풀이"


def test_the_test_split_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "doctor" / "train.jsonl", row("doctor", 1))
    save(tmp_path / "doctor" / "test.jsonl", row("doctor", 2))
    with pytest.raises(DataError, match="read by `lorachain eval --split test` and nothing else"):
        load_exam([str(tmp_path)], "test")
    assert [q.id for q in load_exam([str(tmp_path)], "test", allow_test=True).questions] == ["doctor-2021-1-2"]
    for split in ("train", "dev", "fewshot"):
        if split != "train":
            with pytest.raises(DataError, match=f"no {split} split; found: test, train"):
                load_exam([str(tmp_path)], split)
    with pytest.raises(DataError, match="no train split; found: test"):
        load_exam([str(tmp_path / "doctor" / "test.jsonl")], "train")


def test_a_file_that_names_no_split_is_training_data(tmp_path: Path) -> None:
    path = save(tmp_path / "questions.csv", row("doctor", 1))
    assert len(load_exam([str(path)], "train").questions) == 1
    with pytest.raises(DataError, match="no dev split; found: train"):
        load_exam([str(path)], "dev")


@pytest.mark.parametrize("name", ["", "doctor/train.jsonl"])
def test_of_several_sources_one_may_lack_the_split(tmp_path: Path, name: str) -> None:
    """As written reasoning does, which has train questions only."""
    save(tmp_path / "exam" / "doctor" / "train.jsonl", row("doctor", 1))
    save(tmp_path / "exam" / "doctor" / "dev.jsonl", row("doctor", 2))
    save(tmp_path / "written" / "doctor" / "train.jsonl", row("doctor", 1, cot="풀이"))
    sources = [str(tmp_path / "exam"), str(tmp_path / "written" / name)]
    loaded = load_exam(sources, "dev")
    assert [question.id for question in loaded.questions] == ["doctor-2021-1-2"]
    assert [info.rows for info in loaded.sources] == [1, 0]
    for info in loaded.sources:
        assert changed_since(info.as_dict(), info.name, "exam for validation") == ""
    assert [preview.records for preview in preview_sources(sources, "exam for validation")] == [1, 0]
    assert len(load_exam(sources, "train").questions) == 2
    for read in (
        lambda: load_exam([sources[1]] * 2, "dev"),
        lambda: preview_sources([sources[1]] * 2, "exam for validation"),
    ):
        with pytest.raises(DataError, match="no dev split; found: train"):
            read()


def test_ids_are_unique_and_independent_of_the_order(tmp_path: Path) -> None:
    same, other = row("doctor", 1), row("doctor", 1, question="전혀 다른 질문은?")
    first = load_exam([str(save(tmp_path / "a" / "train.jsonl", same, other, same, row("doctor", 2)))], "train")
    second = load_exam([str(save(tmp_path / "b" / "train.jsonl", other, same, row("doctor", 2)))], "train")
    assert first.duplicates == 1
    assert len({q.id for q in first.questions}) == 3
    assert {q.question: q.id for q in first.questions} == {q.question: q.id for q in second.questions}
    assert first.questions[2].id == "doctor-2021-1-2"
    bare = {key: value for key, value in same.items() if key != "q_number"}
    hashed = load_exam([str(save(tmp_path / "c" / "train.jsonl", bare))], "train").questions[0].id
    assert hashed.startswith("doctor-")
    assert len(hashed) == len("doctor-") + 8


def test_subjects_and_even_samples(tmp_path: Path) -> None:
    for subject, count in {"doctor": 8, "nurse": 3, "pharm": 1}.items():
        save(tmp_path / subject / "train.jsonl", *(row(subject, n) for n in range(count)))
    few = load_exam([str(tmp_path)], "train", max_samples=6).questions
    every = load_exam([str(tmp_path)], "train").questions
    assert (spread(every, 6), spread(every, None), spread(every, 12)) == (few, every, every)
    assert [q.subject for q in few] == ["doctor"] * 3 + ["nurse"] * 2 + ["pharm"]
    assert [q.id[-1] for q in few] == ["0", "1", "2", "0", "1", "0"]
    only = load_exam([str(tmp_path)], "train", subjects=["nurse", "pharm"]).questions
    assert {q.subject for q in only} == {"nurse", "pharm"}
    with pytest.raises(DataError, match="no question of the subject vet; found: doctor, nurse, pharm"):
        load_exam([str(tmp_path)], "train", subjects=["nurse", "vet"])


# ---- few-shot questions of several exams -----------------------------------------------------------------------------


@pytest.fixture
def two_exams(tmp_path: Path) -> list[str]:
    """Exam `a` has few-shot questions, `b` has none; its dev split repeats one of them."""
    save(tmp_path / "a" / "doctor" / "dev.jsonl", *(row("doctor", n) for n in range(1, 4)))
    save(tmp_path / "a" / "doctor" / "fewshot.jsonl", row("doctor", 1), row("doctor", 9))
    save(tmp_path / "b" / "doctor" / "dev.jsonl", row("doctor", 9), row("doctor", 4))
    return [str(tmp_path / "b"), str(tmp_path / "a")]


def test_an_exam_without_few_shot_questions_does_not_hide_those_of_another(two_exams: list[str]) -> None:
    loaded = load_exam(two_exams, "dev")
    assert [q.id[-1] for q in loaded.fewshot] == ["1", "9"]
    assert [(q.exam, q.id[-1]) for q in loaded.questions] == [("b", "4"), ("a", "2"), ("a", "3")]
    assert loaded.fewshot_left_out == 2
    fewshot = load_fewshot(two_exams)
    assert fewshot.questions == loaded.fewshot
    assert [(info.short_name, info.rows) for info in fewshot.sources] == [("b", 0), ("a", 2)]
    assert load_fewshot(two_exams[:1]).questions == []
    assert load_fewshot(two_exams, subjects=["nurse"]).questions == []


def test_a_broken_few_shot_file_is_an_error(two_exams: list[str]) -> None:
    path = Path(two_exams[1]) / "doctor" / "fewshot.jsonl"
    path.write_text('{"question": "선택지가 없다"}\n')
    reads: list[Callable[[], object]] = [lambda: load_exam(two_exams, "dev"), lambda: load_fewshot(two_exams)]
    for read in reads:
        with pytest.raises(DataError, match=r"fewshot\.jsonl:1: expected a question"):
            read()
    assert load_exam(two_exams, "dev", skip_bad_rows=True).fewshot == []


def test_few_shot_questions_are_read_without_opening_other_splits(two_exams: list[str]) -> None:
    for source in two_exams:
        (Path(source) / "doctor" / "test.jsonl").write_bytes(b"\x00\xff")
        (Path(source) / "doctor" / "dev.jsonl").write_bytes(b"\x00\xff")
    assert len(load_fewshot(two_exams).questions) == 2


# ---- subjects --------------------------------------------------------------------------------------------------------


def unnamed(number: int, **changes: object) -> dict[str, object]:
    """A row without a subject."""
    return {key: value for key, value in row("", number, **changes).items() if key != "subject"}


def subjects_of(source: Path, split: str = "dev") -> list[str]:
    return [q.subject for q in load_exam([str(source)], split, allow_test=True).questions]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("exam/pharm/{}.jsonl", "exam"),
        ("exam/pharm_{}.jsonl", "exam"),
        ("exam/{}/pharm.jsonl", "exam"),
        ("exam/{}_pharm.jsonl", "exam"),
        ("exam/pharm/2022/{}.jsonl", "exam"),
        ("pharm/{}.jsonl", "pharm"),
        ("exam/{}.jsonl", "exam"),
        ("pharm/{}.jsonl", "pharm/test.jsonl"),
        ("exam/약사/{}.jsonl", "exam"),
    ],
)
def test_rows_of_one_profession_are_one_subject(tmp_path: Path, name: str, source: str) -> None:
    """The published pharmacist's test rows say `pharm` and `pharmacy`, its few-shot rows `pharm` only."""
    mixed = [row("pharm", 1), row("pharmacy", 2), row("Pharmacy", 3)]
    save(tmp_path / name.format("test"), *mixed)
    save(tmp_path / name.format("fewshot"), row("pharm", 9))
    subjects = set(subjects_of(tmp_path / source, "test"))
    assert subjects == {"약사" if "약사" in name else "pharm"}
    if not source.endswith(".jsonl"):
        assert {q.subject for q in load_fewshot([str(tmp_path / source)]).questions} == subjects


def test_an_index_column_is_ignored(tmp_path: Path) -> None:
    rows = [{"": n, **row(subject, n)} for n, subject in enumerate(["pharm", "pharmacy"])]
    save(tmp_path / "pharm" / "test.csv", *rows)
    assert [q.id for q in load_exam([str(tmp_path)], "test", allow_test=True).questions] == [
        "pharm-2021-1-0", "pharm-2021-1-1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["02_kor_med_test", "2022", "data", "my_test", "exam"])
def test_a_general_directory_is_not_a_subject(tmp_path: Path, name: str) -> None:
    save(tmp_path / "outer" / name / "dev.jsonl", row("doctor", 1), row("surgery", 2), unnamed(3))
    assert subjects_of(tmp_path / "outer") == ["doctor", "surgery", "outer"]
    assert subjects_of(tmp_path / "outer" / name) == ["doctor", "surgery", "exam"]


def test_a_file_prefix_that_is_an_exam_keeps_its_professions(tmp_path: Path) -> None:
    save(tmp_path / "board_dev.csv", row("doctor", 1), row("nurse", 2), row("surgery", 3))
    assert subjects_of(tmp_path) == ["doctor", "nurse", "board"]
    save(tmp_path / "eye" / "dev.csv", row("retina", 1), row("cornea", 2))
    assert set(subjects_of(tmp_path / "eye")) == {"retina", "cornea"}
    assert subjects_of(tmp_path)[3:] == ["eye", "eye"]


def test_a_directory_that_is_a_split(tmp_path: Path) -> None:
    """Questions below `dev` or `test` are never taken for training data."""
    for split in ("train", "dev", "test"):
        save(tmp_path / split / "doctor.jsonl", unnamed(1, question=f"{split} 문제?"))
        save(tmp_path / split / "2022" / "nurse.jsonl", unnamed(1, question=f"{split} 간호 문제?"))
    for split in ("train", "dev", "test"):
        questions = load_exam([str(tmp_path)], split, allow_test=True).questions  # type: ignore[arg-type]
        assert [(q.subject, q.question[: len(split)]) for q in questions] == [("nurse", split), ("doctor", split)]


# ---- what copies of the public set look like -------------------------------------------------------------------------


TEXTS = [f"{letter}번째 선택지" for letter in LETTERS]


@pytest.mark.parametrize("name", ["options", "choices", "Options"])
@pytest.mark.parametrize(
    "nested",
    [
        TEXTS,
        dict(zip(LETTERS, TEXTS, strict=True)),
        dict(zip("edcba", reversed(TEXTS), strict=True)),
        dict(zip("12345", TEXTS, strict=True)),
        {**dict(zip(LETTERS, TEXTS, strict=True)), "F": None},
        {"text": TEXTS, "label": list(LETTERS)},
        {"text": TEXTS},
        [{"key": letter, "value": text} for letter, text in zip(LETTERS, TEXTS, strict=True)],
        [{"label": letter, "text": text} for letter, text in zip(LETTERS, TEXTS, strict=True)],
    ],
)
def test_nested_options(tmp_path: Path, name: str, nested: object) -> None:
    bare = {key: value for key, value in row("doctor", 1).items() if key not in LETTERS}
    path = save(tmp_path / "train.jsonl", {**bare, name: nested})
    assert list(load_exam([str(path)], "train").questions[0].options) == TEXTS
    path = save(tmp_path / "train.csv", {**bare, name: json.dumps(nested)})
    assert list(load_exam([str(path)], "train").questions[0].options) == TEXTS


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        (TEXTS[:4], "a list of 4 as options where five are expected"),
        ([*TEXTS, "F번째"], "a list of 6 as options"),
        ({"A": "a", "B": "b", "C": "c", "D": "d"}, "no option E"),
        ({**dict(zip(LETTERS, TEXTS, strict=True)), "F": "f"}, "an option 'F' where A to E are allowed"),
        ([*TEXTS[:4], None], "no option E"),
        ([*TEXTS[:4], ["x"]], "E: list"),
        ("A) 가 B) 나", "the options 'A) 가 B) 나' where a list or an object is expected"),
        ("[" * 100_000, "where a list or an object is expected"),
        (7, "7 as options where five are expected"),
    ],
)
def test_nested_options_that_cannot_be_read(tmp_path: Path, nested: object, message: str) -> None:
    bare = {key: value for key, value in row("doctor", 1).items() if key not in LETTERS}
    path = save(tmp_path / "train.jsonl", {**bare, "options": nested})
    with pytest.raises(DataError) as raised:
        load_exam([str(path)], "train")
    assert message in str(raised.value)


def test_options_as_columns_win_over_nested_ones(tmp_path: Path) -> None:
    path = save(tmp_path / "train.jsonl", row("doctor", 1, options=["v", "w", "x", "y", "z"]))
    assert list(load_exam([str(path)], "train").questions[0].options) == TEXTS


def test_whole_numbers_stored_as_floats(tmp_path: Path) -> None:
    floats = {"year": 2022.0, "period": 1.0, "q_number": 3.0, "answer": 3.0}
    for suffix in (".parquet", ".jsonl", ".csv"):
        path = save(tmp_path / f"train{suffix}", row("doctor", 1, **floats), row("doctor", 2, year=float("nan")))
        first, second = load_exam([str(path)], "train").questions
        assert (first.id, first.answer_letter) == ("doctor-2022-1-3", "C")
        assert len(second.id) == len("doctor-") + 8  # no year: the content's hash


def test_details_of_an_odd_type_do_not_stop_an_evaluation(tmp_path: Path) -> None:
    odd = {"subject": ["pharm"], "year": True, "period": {"n": 1}, "q_number": [1]}
    save(tmp_path / "pharm" / "test.jsonl", {**row("pharm", 1), **odd})
    (question,) = load_exam([str(tmp_path)], "test", allow_test=True).questions
    assert question.subject == "pharm"
    assert len(question.id) == len("pharm-") + 8


def test_a_directory_whose_name_is_not_utf8(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path / "exam") + b"\xff")) / os.fsdecode(b"eye\xb0")
    save(directory / "dev.jsonl", unnamed(1))
    (question,) = load_exam([str(directory.parent)], "dev").questions
    assert (question.exam, question.subject) == ("exam?", "eye?")


def test_null_markers_in_a_question(tmp_path: Path) -> None:
    changes = {"cot": "nan", "subject": "None", "q_number": r"\N", "A": "None", "B": "N/A"}
    path = save(tmp_path / "doctor_train.csv", {**row("doctor", 1), **changes})
    (question,) = load_exam([str(path)], "train").questions
    assert (question.subject, question.reasoning) == ("doctor", None)
    assert question.options[:2] == ("None", "N/A")  # possible answers


def test_real_exam(real_data: Path) -> None:
    source = [str(real_data / "kormedmcqa")]
    splits = {split: load_exam(source, split) for split in ("train", "dev", "fewshot")}

    def count(split: str) -> list[int]:
        subjects = [q.subject for q in splits[split].questions]
        return [subjects.count(subject) for subject in ("doctor", "nurse", "pharm", "dentist")]

    assert count("train") == [1890, 582, 632, 297]
    assert count("dev") == [159, 286, 295, 299]
    assert splits["dev"].fewshot_left_out == 20
    assert all(q.reasoning for q in splits["fewshot"].questions)
    assert len({q.id for q in splits["train"].questions}) == 3401
    assert splits["dev"].fewshot == splits["fewshot"].questions
    held_out = splits["dev"].questions + splits["dev"].fewshot
    assert without_held_out(splits["train"].questions, held_out)[1] == 0
    assert without_held_out(held_out, held_out) == ([], 1059)
