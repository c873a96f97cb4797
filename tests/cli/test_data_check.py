"""lorachain data check and data hash-exam."""

import json
from pathlib import Path

import pytest

from chain_making import run_command_line
from lorachain.artifacts import DataReport, HashedExam

STEM = "52세 남자가 발열과 옆구리 통증으로 병원에 왔다. 가장 알맞은 진단은 무엇인가?"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An exam with a dev and a test question, and a corpus with one of them, a phone number and a duplicate."""
    question = {"subject": "doctor", "year": 2020, "period": 1, "q_number": 1, "question": STEM, "answer": 1, "cot": ""}
    question |= dict(zip("ABCDE", ("신우신염", "방광염", "요로결석", "농양", "전립샘염"), strict=True))
    (tmp_path / "exam" / "doctor").mkdir(parents=True)
    for split in ("dev", "test"):
        changed = question | {"question": STEM if split == "dev" else STEM.replace("52세 남자", "다섯 살 아이")}
        (tmp_path / "exam" / "doctor" / f"{split}.jsonl").write_text(json.dumps(changed) + "\n", encoding="utf-8")
    texts = [
        "간은 담즙을 만든다.",
        f"기출: {STEM.replace('남자가', '남자는')}",
        "전화 010-1234-5678",
        "간은 담즙을 만든다.",
    ]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "corpus.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path


def test_what_is_found_is_shown_and_written(data: Path) -> None:
    out = data / "report.json"
    code, shown, err = run_command_line("data", "check", data / "corpus.jsonl", "--exam", data / "exam", "--out", out)
    assert code == 0, err
    assert "exam/doctor-2020-1-1" in shown
    assert "1234" not in shown + err + out.read_text(encoding="utf-8")
    report = DataReport.read(out)
    assert (report.records, report.kept, report.contamination.removed) == (4, 2, 1)
    assert report.personal.kinds == {"phone": 1}
    assert [path.name for path in data.glob("report*")] == ["report.json"]


def test_a_test_split_is_held_out_by_hashes(data: Path) -> None:
    hashes = data / "test.json"
    code, _, err = run_command_line("data", "hash-exam", "--exam", data / "exam", "--out", hashes)
    assert code == 0, err
    assert len(HashedExam.read(hashes).questions) == 1
    assert "통증" not in hashes.read_text(encoding="utf-8")
    setting = f"data.contamination.hashes={json.dumps([str(hashes)])}"
    out = data / "report.json"
    code, _, err = run_command_line("data", "check", data / "corpus.jsonl", "--set", setting, "--out", out)
    assert code == 0, err
    assert DataReport.read(out).contamination.questions == {"test": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--as", "poem"), "--as 'poem' is unknown; allowed: plain, dictionary, exam, instruct"),
        (("--set", "lora.rank=4"), "lora.rank has no effect on `lorachain data check`"),
        (("--set", "data.personal.action=hide"), "data.personal.action"),
        (("--set", r"data.personal.chart_pattern='\d+'"), "data.personal.chart_pattern"),
        (("--set", 'data.contamination.hashes=["nowhere.json"]'), "nowhere.json cannot be read"),
        (("--out", "."), "--out . is a directory"),
    ],
)
def test_bad_input_is_one_message(data: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run_command_line("data", "check", data / "corpus.jsonl", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_split_is_refused(data: Path) -> None:
    code, _, err = run_command_line(
        "data", "hash-exam", "--exam", data / "exam", "--out", data / "x.json", "--split", "exam"
    )
    assert (code, "--split 'exam' is unknown" in err) == (2, True)
