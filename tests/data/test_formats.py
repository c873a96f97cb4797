"""The layouts in which people have their data, a small file of each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.exam_writer import write_exam
from lorachain.data.instruct import load_instructions
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.preview import preview_sources
from lorachain.data.rows import Tally
from lorachain.data.tables import read_rows
from lorachain.errors import DataError
from lorachain.records import Instruction, PlainText, Term
from workbook_making import write_workbook

OPTIONS = {"A": "위염", "B": "위궤양", "C": "위암", "D": "췌장염", "E": "담낭염"}
CSV = "용어명;영문용어;정의\n위염;gastritis;위 점막의 염증, 급성 또는 만성\n"


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def written(path: Path, content: str | object, encoding: str = "utf-8") -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    return str(path)


def documents(source: str) -> list[str]:
    return [document.text for document in stream_plain_text([source]) if isinstance(document, PlainText)]


# ---- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_the_named_encoding_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    entry = {"용어명": "위염", "영문용어": "gastritis", "정의": "위 점막의 염증, 급성 또는 만성"}
    content = CSV if suffix == ".csv" else json.dumps([entry] if suffix == ".json" else entry, ensure_ascii=False)
    source = written(tmp_path / f"a{suffix}", content, encoding)
    assert load_dictionary([f"{source}#encoding={encoding}"]).entries == [
        Term("위염", "위 점막의 염증, 급성 또는 만성", "gastritis")
    ]


@pytest.mark.parametrize("encoding", ["cp949", "utf-16"])
def test_plain_text_in_a_named_encoding(tmp_path: Path, encoding: str) -> None:
    source = written(tmp_path / "a.txt", "뷁은 EUC-KR에 없는 글자다.\n둘째 줄\n", encoding)
    assert documents(f"{source}#encoding={encoding}") == ["뷁은 EUC-KR에 없는 글자다.\n둘째 줄"]


def test_an_encoding_is_named_in_the_message_and_never_guessed(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", "용어,뜻\n" + "".join(f"위염{n},위 점막의 염증\n" for n in range(20)), "cp949")
    with pytest.raises(DataError, match=r"a\.csv:1: .*it is probably CP949: read it with --encoding cp949"):
        load_dictionary([source])
    source = written(tmp_path / "b.txt", "한글\n" * 9, "utf-16")
    with pytest.raises(DataError, match=r"b\.txt:1: .*it is probably UTF-16: read it with --encoding utf-16"):
        documents(source)
    (tmp_path / "c.txt").write_bytes(b"caf\xe9 au lait\n")
    with pytest.raises(DataError, match=r"c\.txt:1: .*save the file as UTF-8, or give its encoding"):
        documents(str(tmp_path / "c.txt"))


def test_utf8_is_not_read_as_cp949(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", CSV)
    with pytest.raises(DataError, match=r"a\.csv: the file is UTF-8, and cp949 is given for it"):
        load_dictionary([f"{source}#encoding=cp949"])
    ascii_only = written(tmp_path / "b.csv", "term,definition\na,b\n")
    assert load_dictionary([f"{ascii_only}#encoding=cp949"]).entries == [Term("a", "b")]


def test_a_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("용어,뜻\n가,나\n".encode("cp949") + b"\xff\xff,x\n")
    with pytest.raises(DataError, match=r"a\.csv:3: .*not cp949; give its real encoding"):
        load_dictionary([f"{tmp_path / 'a.csv'}#encoding=cp949"])
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00\xd8\x00")
    with pytest.raises(DataError, match=r"b\.txt: not UTF-16"):
        documents(f"{tmp_path / 'b.txt'}#encoding=utf-16")


# ---- columns --------------------------------------------------------------------------------------------------------


def test_a_semicolon_separates_where_the_header_has_no_comma(tmp_path: Path) -> None:
    assert len(load_dictionary([written(tmp_path / "a.csv", CSV)]).entries) == 1
    both = written(tmp_path / "b.csv", "용어;뜻,옛말\n가;나\n")
    with pytest.raises(DataError, match=r"b\.csv:2: expected 2 fields"):
        load_dictionary([both])
    assert load_dictionary([f"{both}#delimiter=;,definition=뜻%2C옛말"]).entries == [Term("가", "나")]


def test_columns_of_the_user(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", "표준용어,용어,풀이말,설명\n위염,다른 것,염증,다른 설명\n")
    assert load_dictionary([f"{source}#term=표준용어,definition=풀이말"]).entries == [Term("위염", "염증")]
    with pytest.raises(DataError, match=r"a\.csv: no column '표준 용어' .*columns are 표준용어, 용어, 풀이말, 설명"):
        load_dictionary([f"{source}#term=표준 용어"])


def test_a_named_column_is_the_only_one_that_is_read(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"name": "가", "gloss": None, "정의": "나", "english": "x"})
    assert load_dictionary([f"{source}#term=name,definition=gloss"]).entries == [Term("가", None, "x")]


def test_a_column_that_only_some_objects_have(tmp_path: Path) -> None:
    rows = [{"term": "가", "english": "a"}, {"term": "나", "english": "b", "note": "둘째"}]
    source = jsonl(tmp_path / "a.jsonl", *rows)
    assert [e.definition for e in load_dictionary([f"{source}#definition=note"]).entries] == [None, "둘째"]
    with pytest.raises(DataError, match="no column 'memo'"):
        load_dictionary([f"{source}#definition=memo"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("encoding=latin-1", "encoding is 'latin-1'; allowed: utf-8, cp949, euc-kr, utf-16"),
        ("encodign=cp949", "unknown option 'encodign'"),
        ("sheet", "'sheet' is not KEY=VALUE"),
        ("header=0", "header is '0'"),
        ("delimiter=x", "delimiter is 'x'"),
        ("sheet=1,sheet=2", "sheet is given twice"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: str, says: str) -> None:
    source = written(tmp_path / "a.csv", CSV)
    with pytest.raises(DataError) as error:
        load_dictionary([f"{source}#{options}"])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "option", "allowed"),
    [
        ("a.csv", "sheet=1", ".xlsx, .ods"),
        ("a.jsonl", "header=2", ".csv, .tsv, .xlsx, .ods"),
        ("a.jsonl", "delimiter=;", ".csv, .tsv"),
        ("a.xlsx", "encoding=cp949", ".txt, .jsonl, .json, .csv, .tsv"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, name: str, option: str, allowed: str) -> None:
    source = written(tmp_path / name, CSV)
    key, suffix = option.partition("=")[0], Path(name).suffix
    with pytest.raises(DataError) as error:
        load_dictionary([f"{source}#{option}"])
    assert f"{name}: the option {key} has no effect on {suffix} files, only on {allowed}." in str(error.value)


def test_an_option_without_effect_on_text_is_refused(tmp_path: Path) -> None:
    source = f"{written(tmp_path / 'a.txt', '가나다라')}#sheet=1"
    says = r"a\.txt: the option sheet has no effect on \.txt files"
    with pytest.raises(DataError, match=says):
        documents(source)
    with pytest.raises(DataError, match=says):
        preview_sources([source], "plain text")


def test_a_file_whose_name_has_a_number_sign(tmp_path: Path) -> None:
    source = written(tmp_path / "a#encoding=cp949.csv", CSV)
    assert len(load_dictionary([source]).entries) == 1


# ---- exams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["2", "2.0", "②", "2번", "(2)", "B", "b.", " Ｂ "])
@pytest.mark.parametrize(
    "names", [[f"보기{n}" for n in range(1, 6)], [f"보기 {n}" for n in range(1, 6)], list("①②③④⑤")]
)
def test_an_exam_with_korean_headers(tmp_path: Path, answer: str, names: list[str]) -> None:
    row = {
        "문제": "명치 통증의 원인은?",
        **dict(zip(names, OPTIONS.values(), strict=True)),
        "정답": answer,
        "해설": "궤양이다.",
    }
    (question,) = load_exam([jsonl(tmp_path / "train.jsonl", row)], "train").questions
    assert question.options == tuple(OPTIONS.values())
    assert (question.question, question.answer, question.reasoning) == ("명치 통증의 원인은?", 1, "궤양이다.")


def test_clinical_qa_of_snuh(tmp_path: Path) -> None:
    """Its fields, with options that are a Python object as text, and findings of their own."""
    row = {
        "question_id": 1, "chief_complaint": "복통", "purpose": "원인 감별", "question": "50세 남자가 속이 쓰리다.",
        "exam": "내시경: 십이지장 궤양", "options": str(OPTIONS), "answer": "B", "explanation": "궤양이 보인다.",
        "source": "교과서", "category": "Gastroenterology",
    }  # fmt: skip
    (question,) = load_exam([jsonl(tmp_path / "train.jsonl", row)], "train").questions
    assert question.question == "50세 남자가 속이 쓰리다.\n내시경: 십이지장 궤양"
    assert (question.options, question.answer_letter) == (tuple(OPTIONS.values()), "B")
    assert question.reasoning == "궤양이 보인다."


def test_the_name_of_an_examination_is_no_part_of_its_questions(tmp_path: Path) -> None:
    row = {"exam": "의사 국가시험", "question": "물음", **OPTIONS, "answer": 1}
    assert load_exam([jsonl(tmp_path / "train.jsonl", row)], "train").questions[0].question == "물음"


@pytest.mark.parametrize("options", ["__import__('os')", "{'A': f()}", "(" * 5000, "{'A': 1"])
def test_options_as_text_are_never_run(tmp_path: Path, options: str) -> None:
    source = jsonl(tmp_path / "train.jsonl", {"question": "?", "options": options, "answer": "A"})
    with pytest.raises(DataError, match="a list or an object is expected"):
        load_exam([source], "train")


MESSAGES = [
    {"role": "user", "content": "명치 통증의 원인은?\n" + "\n".join(f"{k}. {v}" for k, v in OPTIONS.items())},
    {"role": "assistant", "content": "<think>\n위산이 문제다.\n</think>\n정답: B. 위궤양"},
]


def test_reasoning_in_messages(tmp_path: Path) -> None:
    (question,) = load_exam([jsonl(tmp_path / "train.jsonl", {"messages": MESSAGES})], "train").questions
    assert (question.question, question.options) == ("명치 통증의 원인은?", tuple(OPTIONS.values()))
    assert (question.answer_letter, question.reasoning) == ("B", "위산이 문제다.")
    row = {"question": "물음", **OPTIONS, "answer": 3, "messages": MESSAGES}
    (question,) = load_exam([jsonl(tmp_path / "train.jsonl", row)], "train").questions
    assert (question.question, question.answer_letter, question.reasoning) == ("물음", "C", "위산이 문제다.")


@pytest.mark.parametrize(
    ("content", "says"),
    [("물음만 있다.", "without five options"), ("물음\nA. 가\nB. 나\nC. 다\nD. 라", "without five options")],
)
def test_messages_without_a_question(tmp_path: Path, content: str, says: str) -> None:
    messages = [{"role": "user", "content": content}, MESSAGES[1]]
    with pytest.raises(DataError, match=says):
        load_exam([jsonl(tmp_path / "train.jsonl", {"messages": messages})], "train")


@pytest.mark.parametrize(("text", "expected"), [("정답은 3번", 2), ("**정답: (D)**", 3), ("②", 1), ("B. 위궤양", 1)])
def test_the_answer_in_a_message(tmp_path: Path, text: str, expected: int) -> None:
    messages = [MESSAGES[0], {"role": "assistant", "content": f"<think>A일까? 정답: A?</think>{text}"}]
    (question,) = load_exam([jsonl(tmp_path / "train.jsonl", {"messages": messages})], "train").questions
    assert question.answer == expected


@pytest.mark.parametrize("column", ["cot", "reasoning", "explanation", "rationale"])
def test_the_writer_of_reasoning_is_recorded(tmp_path: Path, column: str) -> None:
    rows = [{"question": f"물음 {n}", **OPTIONS, "answer": 1, column: "풀이"} for n in range(3)]
    rows[0]["writer"] = "김의사"
    rows.append({"question": "풀이 없음", **OPTIONS, "answer": 1})
    source = jsonl(tmp_path / "train.jsonl", *rows)
    assert load_exam([source], "train").sources[0].reasoning_writers == {"김의사": 1, "unknown": 2}
    named = load_exam([f"{source}#writer=GPT-4o"], "train").sources[0]
    assert named.reasoning_writers == {"GPT-4o": 2, "김의사": 1}


def test_the_writer_of_written_reasoning_goes_with_it(tmp_path: Path) -> None:
    questions = load_exam(["sample"], "train", max_samples=3).questions
    write_exam({"train": questions}, tmp_path, writer="google/medgemma-4b-it")
    assert load_exam([str(tmp_path)], "train").sources[0].reasoning_writers == {"google/medgemma-4b-it": 3}
    assert load_exam(["sample"], "train").sources[0].reasoning_writers.keys() == {"sample"}


def test_an_exam_for_training_only(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "set.jsonl", {"question": "물음", **OPTIONS, "answer": 1}) + "#split=train"
    assert len(load_exam([source, "sample"], "train").questions) > 1
    dev = load_exam([source, "sample"], "dev")
    assert {question.exam for question in dev.questions} == {"sample"}
    assert (dev.sources[0].rows, dev.sources[0].read_to_end) == (0, False)
    with pytest.raises(DataError, match="every source is only trained on"):
        load_exam([source], "dev")


def test_no_option_opens_the_test_split(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "test.jsonl", {"question": "물음", **OPTIONS, "answer": 1})
    for split in ("test", "train"):
        with pytest.raises(DataError, match="no train split"):
            load_exam([f"{source}#split={split}"], "train")
    with pytest.raises(DataError, match="the test split is read by"):
        load_dictionary(["owner/name#split=test"])


def test_a_real_exam_as_a_workbook(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "kormedmcqa" / "doctor"
    rows = [json.loads(line) for line in (folder / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    header = ["연도", "교시", "번호", "문제", *(f"보기{n}" for n in range(1, 6)), "정답", "해설"]
    names = ["year", "period", "q_number", "question", *"ABCDE", "answer", "cot"]
    (tmp_path / "doctor").mkdir()
    table = [header, *([row[name] for name in names] for row in rows)]
    write_workbook(tmp_path / "doctor" / "dev.xlsx", {"문항": table})
    fields = ("id", "subject", "question", "options", "answer")
    read, expected = (
        [[getattr(question, field) for field in fields] for question in load_exam([str(source)], "dev").questions]
        for source in (tmp_path / "doctor", folder)
    )
    by_id = {row[0]: row for row in read}  # here no few-shot questions are left out
    assert len(expected) == 159
    assert [by_id[str(row[0])] for row in expected] == expected


# ---- chat data and corpora ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "물음"}, {"role": "assistant", "content": "답"}]},
        {"conversations": [{"from": "human", "value": "물음"}, {"from": "gpt", "value": "답"}]},
        {"instruction": "물음", "input": "", "output": "답"},
        {"question": "물음", "answer": "답"},
    ],
)
def test_chat_data_is_read_for_stage_00_and_for_replay(tmp_path: Path, row: dict[str, Any]) -> None:
    source = jsonl(tmp_path / "a.jsonl", row)
    assert list(stream_plain_text([source])) == load_instructions([source]).instructions == [Instruction("물음", "답")]


def test_the_input_of_alpaca_follows_the_instruction(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"instruction": "요약하시오.", "input": "긴 글", "output": "짧은 글"})
    assert load_instructions([source]).instructions == [Instruction("요약하시오.\n\n긴 글", "짧은 글")]


def test_an_exam_is_no_chat_data(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"question": "물음", **OPTIONS, "answer": "2"})
    loaders: list[Callable[[list[str]], object]] = [load_instructions, lambda names: list(stream_plain_text(names))]
    for load in loaders:
        with pytest.raises(DataError, match="name it as an exam"):
            load([source])


KNOWLEDGE = {"c_id": "1_2", "domain": 10, "source": 5, "source_spec": "교과서", "creation_year": "2020"}
HEALTH_CARE = {
    "fileName": "HC-A-1",
    "disease_category": "소화기",
    "disease_name": {"kor": "위염", "eng": "gastritis"},
    "department": ["내과"],
    "intention": "치료",
    "answer": {"intro": "들어가며.", "body": "본론.", "conclusion": "끝."},
}
BOOKS = [
    {"book_id": "A1", "category": "의료", "keyword": ["위"], "text": "첫 책"},
    {"book_id": "A2", "category": "의료", "keyword": [], "text": "둘째 책"},
]
PARAGRAPHS = [{"form": "첫 문단"}, {"form": "둘째 문단"}]
SENTENCES = [{"sentence": "첫 문장."}, {"sentence": "둘째 문장."}]
NESTED: dict[str, tuple[object, list[str]]] = {
    "AI-Hub 71875, medical knowledge": ({**KNOWLEDGE, "content": "본문이다."}, ["본문이다."]),
    "AI-Hub 71487, medical and legal books": ({"data": BOOKS}, ["첫 책", "둘째 책"]),
    "AI-Hub 71762, health care": (HEALTH_CARE, ["들어가며.\n본론.\n끝."]),
    "a list under two names": ({"SJML": {"header": {"x": 1}, "text": [{"title": "가", "content": "글"}]}}, ["글"]),
    "paragraphs": ({"document": [{"id": "1", "paragraph": PARAGRAPHS}]}, ["첫 문단\n둘째 문단"]),
    "sentences": ({"named_entity": [{"content": SENTENCES}]}, ["첫 문장.\n둘째 문장."]),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_json_of_corpora(tmp_path: Path, name: str) -> None:
    content, texts = NESTED[name]
    assert documents(written(tmp_path / "a.json", content)) == texts


def test_questions_of_ai_hub_are_exchanges(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", {"qa_id": 9, "domain": 10, "q_type": 2, "question": "물음", "answer": "답"})
    assert list(stream_plain_text([source])) == [Instruction("물음", "답")]


@pytest.mark.parametrize("content", [{"a": {"b": {"c": {"data": [{"text": "x"}]}}}}, {"n": 1}, "text", 3])
def test_json_without_records(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match='a list of objects, an object with such a list under "data", or one object'):
        list(read_rows(Path(written(tmp_path / "a.json", json.dumps(content))), Tally()))
