"""Records through the gates: what is kept, masked, refused and reported."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorachain.artifacts import DataReport, HashedExam
from lorachain.artifacts.data_gates import ContaminationReport
from lorachain.data.gates import screen, workers
from lorachain.data.gates.hashed_exam import hash_exam
from lorachain.data.gates.screen import open_data_gates
from lorachain.data.gates.views import DICTIONARY, EXAM, INSTRUCT, PLAIN_TEXT
from lorachain.data_settings import DataConfig
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.records import ExamQuestion, Instruction, PlainText, Term

QUESTION = ExamQuestion(
    "2021-1-1",
    "doctor",
    "52세 남자가 3일 전부터 시작된 발열과 우측 옆구리 통증으로 병원에 왔다. 가장 알맞은 진단은 무엇인가?",
    ("급성 신우신염", "급성 방광염", "요로결석", "신장 농양", "급성 전립샘염"),
    0,
    exam="real",
)
TEXT = "간은 담즙을 만드는 장기이며, 담낭은 담즙을 모아 두었다가 십이지장으로 내보낸다. 담즙은 지방의 소화를 돕는다."
PHONE = "010-1234-5678"


def documents(*texts: str) -> list[PlainText]:
    return [PlainText(text, f"corpus.jsonl:{line}") for line, text in enumerate(texts, start=1)]


def config(**gates: object) -> DataConfig:
    return DataConfig.model_validate({"processes": 1, **gates})


def run(settings: DataConfig, *texts: str) -> tuple[list[str], DataReport]:
    gates = open_data_gates(PLAIN_TEXT, settings, {"dev": [QUESTION]})
    kept = [document.text for document in gates.kept(documents(*texts))]
    return kept, gates.report(["corpus.jsonl"])


CONTAMINATED = f"{TEXT}\n{QUESTION.question.replace('남자가', '남자는').replace('3일', '３ 일')}\n{TEXT}"


def test_nothing_is_found_and_nothing_changes() -> None:
    kept, report = run(config(), TEXT, "심장은 피를 내보낸다.", "")
    assert kept == [TEXT, "심장은 피를 내보낸다.", ""]
    assert (report.records, report.kept, report.contamination.records, report.personal.records) == (3, 3, 0, 0)
    assert report.quality["hangul"].removed == 0
    assert report.quality["characters"].suggested_would_remove == 2


def test_contamination_is_removed_reported_or_refused() -> None:
    kept, report = run(config(), TEXT, CONTAMINATED)
    assert kept == [TEXT]
    [match] = report.contamination.matches
    assert (match.record, match.where, match.question, match.kind) == (
        2,
        "corpus.jsonl:2",
        "real/2021-1-1",
        "containment",
    )
    assert (report.contamination.touched, report.contamination.found) == ((), ("real/2021-1-1",))
    kept, report = run(config(contamination={"action": "report"}), TEXT, CONTAMINATED)
    assert kept == [TEXT, CONTAMINATED]
    assert report.contamination.touched == ("real/2021-1-1",)
    with pytest.raises(DataError, match=r"corpus.jsonl:2: .*real/2021-1-1 of dev"):
        run(config(contamination={"action": "refuse"}), TEXT, CONTAMINATED)


def test_a_verbatim_question_is_left_out_whatever_the_action() -> None:
    kept, report = run(config(contamination={"action": "report"}), f"{TEXT} {QUESTION.question}")
    assert kept == []
    assert report.contamination.kinds == {"verbatim": 1}


def test_duplicates_are_kept_once_and_counted() -> None:
    long = " ".join(
        f"{organ} {number}의 기능을 살핀다." for number, organ in enumerate("간위폐뇌눈귀코입손발목등배팔" * 2)
    )
    kept, report = run(config(), TEXT, long, TEXT, long.replace("등", "허리", 1))
    assert kept == [TEXT, long]
    assert report.duplicates is not None
    assert (report.duplicates.exact, report.duplicates.near, report.duplicates.across_files) == (1, 1, 0)
    assert [item.of for item in report.duplicates.duplicates] == [1, 2]
    assert len(run(config(duplicates={"action": "report"}), TEXT, TEXT)[0]) == 2
    with pytest.raises(DataError, match=r"corpus.jsonl:2: the document is the same as record 1"):
        run(config(duplicates={"action": "refuse"}), TEXT, TEXT)


def test_duplicates_across_files_are_counted() -> None:
    gates = open_data_gates(PLAIN_TEXT, config(), {})
    assert len(list(gates.kept([PlainText(TEXT, "a.jsonl:1"), PlainText(TEXT, "b.jsonl:1")]))) == 1
    report = gates.report(["a.jsonl", "b.jsonl"])
    assert report.duplicates is not None
    assert report.duplicates.across_files == 1


def test_personal_data_is_refused_without_showing_it() -> None:
    with pytest.raises(
        DataError, match=r"corpus.jsonl:2: .*personal data \(phone; the first at character 6\)"
    ) as error:
        run(config(), TEXT, f"연락처: {PHONE}")
    assert "1234" not in str(error.value)


def test_personal_data_is_masked_on_request(tmp_path: Path) -> None:
    kept, report = run(config(personal={"action": "mask"}), f"{TEXT} {PHONE}", f"{TEXT[:20]} 전화 {PHONE}.")
    assert kept == [f"{TEXT} [전화번호]", f"{TEXT[:20]} 전화 [전화번호]."]
    assert (report.personal.masked, report.personal.kinds) == (2, {"phone": 2})
    first, second = report.personal.findings
    assert first.salted_hash == second.salted_hash
    report.write(tmp_path / "report.json")
    assert "1234" not in (tmp_path / "report.json").read_text(encoding="utf-8")
    assert DataReport.read(tmp_path / "report.json") == report


def test_what_is_left_out_is_not_searched_for_personal_data() -> None:
    kept, report = run(config(), f"{CONTAMINATED} {PHONE}")
    assert (kept, report.personal.records) == ([], 0)


def test_personal_data_can_be_reported_or_off() -> None:
    kept, report = run(config(personal={"action": "report"}), PHONE)
    assert (kept, report.personal.records) == ([PHONE], 1)
    assert run(config(personal={"action": "off"}), PHONE)[1].personal.records == 0
    with pytest.raises(ConfigError, match="chart_pattern"):
        run(config(personal={"chart_pattern": r"\d+"}), TEXT)


def test_quality_limits_leave_out() -> None:
    kept, report = run(config(quality={"min_characters": 20, "min_hangul": 0.5}), TEXT, "짧다", "x" * 50)
    assert kept == [TEXT]
    assert (report.quality["characters"].removed, report.quality["hangul"].removed) == (1, 1)


def test_every_kind_of_record_is_masked_field_by_field() -> None:
    settings = config(personal={"action": "mask"})
    [term] = open_data_gates(DICTIONARY, settings, {}).kept([Term("담낭", f"문의 {PHONE}", None, "A00")])
    assert term == Term("담낭", "문의 [전화번호]", None, "A00")
    [item] = open_data_gates(INSTRUCT, settings, {}).kept([Instruction("번호는?", PHONE)])
    assert item == Instruction("번호는?", "[전화번호]")
    talk = Instruction("이름은?", "모른다.", (("번호는?", PHONE), (PHONE, "그렇다.")))
    [item] = open_data_gates(INSTRUCT, settings, {}).kept([talk])
    [document] = open_data_gates(PLAIN_TEXT, settings, {}).kept([talk])
    assert item.later == (("번호는?", "[전화번호]"), ("[전화번호]", "그렇다."))
    assert document == item
    question = ExamQuestion("q", "s", "번호는?", (PHONE, "나", "다", "라", "마"), 0, f"{PHONE}이다", "e")
    [masked] = open_data_gates(EXAM, settings, {}).kept([question])
    assert (masked.options[0], masked.reasoning, masked.exam) == ("[전화번호]", "[전화번호]이다", "e")


def test_a_dictionary_may_describe_what_a_question_asks_for() -> None:
    definition = QUESTION.question.removesuffix(" 가장 알맞은 진단은 무엇인가?")
    gates = open_data_gates(DICTIONARY, config(), {"dev": [QUESTION]})
    described, quoted = Term("신우신염", definition), Term("기출", QUESTION.question)
    assert list(gates.kept([described, quoted])) == [described]


def test_the_same_question_is_left_out_whatever_the_action() -> None:
    reordered = replace(QUESTION, options=QUESTION.options[::-1], answer=4)
    changed = replace(reordered, question=QUESTION.question.replace("남자가", "남자는"))
    gates = open_data_gates(EXAM, config(contamination={"action": "report"}), {"dev": [QUESTION]})
    assert list(gates.kept([reordered, changed])) == [changed]
    assert gates.report([]).contamination.kinds == {"containment": 1, "verbatim": 1}


def test_reasoning_that_quotes_another_question_is_found() -> None:
    question = ExamQuestion("q", "s", "담즙을 만드는 곳은?", ("간", "폐", "뇌", "위", "눈"), 0, QUESTION.question)
    gates = open_data_gates(EXAM, config(), {"dev": [QUESTION]})
    assert list(gates.kept([question])) == []


def test_hashed_questions_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    hash_exam("test", [QUESTION]).write(path)
    assert "옆구리" not in path.read_text(encoding="utf-8")
    gates = open_data_gates(PLAIN_TEXT, config(contamination={"hashes": [str(path)]}), {})
    assert [document.text for document in gates.kept(documents(TEXT, CONTAMINATED))] == [TEXT]
    assert gates.report([]).contamination.questions == {"test": 1}
    stored = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**stored, "skeleton_version": 99}), encoding="utf-8")
    with pytest.raises(DataError, match="hash-exam"):
        open_data_gates(PLAIN_TEXT, config(contamination={"hashes": [str(path)]}), {})
    stored["questions"][0]["stem"] = "no base64"
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(WorkspaceError, match="hash-exam"):
        HashedExam.read(path)


def test_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "CHUNK_CHARACTERS", 200)
    monkeypatch.setattr(workers, "_ALONE", 1)
    texts = [f"{number}번째 문서. {TEXT[number:]}" * 2 for number in range(8)] + [CONTAMINATED, TEXT, TEXT]

    def result(processes: int) -> tuple[list[str], ContaminationReport]:
        gates = open_data_gates(PLAIN_TEXT, config(processes=processes), {"dev": [QUESTION]})
        kept = [document.text for document in gates.kept(documents(*texts))]
        return kept, gates.report([]).contamination

    assert result(2) == result(1)
