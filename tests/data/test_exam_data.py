"""KorMedMCQA's schema from every layout; what is held out stays out."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorachain.data.decontamination import without_held_out
from lorachain.data.exam import load_exam
from lorachain.errors import DataError

LETTERS = "ABCDE"


def row(subject: str, number: int, **changes: object) -> dict[str, object]:
    options = {letter: f"{letter}번째 선택지" for letter in LETTERS}
    asked = {"question": f"{subject} 과목의 {number}번 문항으로 옳은 것은?", **options, "answer": 3, "cot": ""}
    return {"subject": subject, "year": 2021, "period": 1, "q_number": number, **asked, **changes}


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


@pytest.mark.parametrize("answer", [2, "2", "B", "b", " b ", "②", "２"])
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


def test_few_shot_questions_leave_dev(tmp_path: Path) -> None:
    save(tmp_path / "doctor" / "dev.jsonl", *(row("doctor", n) for n in range(1, 6)))
    shuffled = dict(zip("ABCDE", [f"{x}번째  선택지" for x in "EDCBA"], strict=True))
    few = row("doctor", 2, q_number=99, question="doctor 과목의  2번 문항으로 옳은 것은 ?", cot="풀이", **shuffled)
    save(tmp_path / "doctor" / "fewshot.jsonl", few)
    loaded = load_exam([str(tmp_path)], "dev")
    assert [q.id[-1] for q in loaded.questions] == ["1", "3", "4", "5"]
    assert loaded.fewshot_left_out == 1
    assert set(loaded.sources[0].files) == {"doctor/dev.jsonl", "doctor/fewshot.jsonl"}
    assert load_exam([str(tmp_path)], "fewshot").questions[0].reasoning == "풀이"


def test_the_test_split_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "doctor" / "train.jsonl", row("doctor", 1))
    save(tmp_path / "doctor" / "test.jsonl", row("doctor", 2))
    with pytest.raises(DataError, match="read by `lorachain eval --split test` and nothing else"):
        load_exam([str(tmp_path)], "test")
    assert [q.id for q in load_exam([str(tmp_path)], "test", allow_test=True).questions] == ["doctor-2021-1-2"]
    for split in ("train", "dev", "fewshot"):
        if split != "train":
            with pytest.raises(DataError, match=f"no {split} split; found: test, train"):
                load_exam([str(tmp_path)], split)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no train split; found: test"):
        load_exam([str(tmp_path / "doctor" / "test.jsonl")], "train")


def test_a_file_that_names_no_split_is_training_material(tmp_path: Path) -> None:
    path = save(tmp_path / "questions.csv", row("doctor", 1))
    assert len(load_exam([str(path)], "train").questions) == 1
    with pytest.raises(DataError, match="no dev split; found: train"):
        load_exam([str(path)], "dev")


def test_ids_are_unique_and_do_not_hang_on_the_order(tmp_path: Path) -> None:
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
    assert [q.subject for q in few] == ["doctor"] * 3 + ["nurse"] * 2 + ["pharm"]
    assert [q.id[-1] for q in few] == ["0", "1", "2", "0", "1", "0"]
    only = load_exam([str(tmp_path)], "train", subjects=["nurse", "pharm"]).questions
    assert {q.subject for q in only} == {"nurse", "pharm"}
    with pytest.raises(DataError, match="no question of the subject vet; found: doctor, nurse, pharm"):
        load_exam([str(tmp_path)], "train", subjects=["nurse", "vet"])


def test_real_exam(real_data: Path) -> None:
    source = [str(real_data / "kormedmcqa")]
    splits = {split: load_exam(source, split) for split in ("train", "dev", "fewshot")}  # type: ignore[arg-type]

    def count(split: str) -> list[int]:
        subjects = [q.subject for q in splits[split].questions]
        return [subjects.count(subject) for subject in ("doctor", "nurse", "pharm", "dentist")]

    assert count("train") == [1890, 582, 632, 297]
    assert count("dev") == [159, 286, 295, 299]
    assert splits["dev"].fewshot_left_out == 20
    assert all(q.reasoning for q in splits["fewshot"].questions)
    assert len({q.id for q in splits["train"].questions}) == 3401
    held_out = splits["dev"].questions + splits["fewshot"].questions
    assert without_held_out(splits["train"].questions, held_out)[1] == 0
    assert without_held_out(held_out, held_out) == ([], 1059)
