"""Exam scores of dev questions that the training data contain, and of the others."""

from pathlib import Path

from lorachain.artifacts import DataReport, EpochScore
from lorachain.chain.context import ChainContext, load_config
from lorachain.chain.history import score_epoch
from lorachain.chain.stages import find_stage
from lorachain.chain.touched import touched_measures, touched_questions
from lorachain.data.gates.screen import open_data_gates
from lorachain.data.gates.views import PLAIN_TEXT
from lorachain.data_settings import DataConfig
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.records import ExamQuestion, PlainText
from lorachain.registry import ModelEntry
from lorachain.report.console import ConsoleReporter
from lorachain.workspace import Workspace, data_report

QUESTIONS = [
    ExamQuestion(f"q{n}", "s", f"{n}번째 물음", ("가", "나", "다", "라", "마"), 0, exam="real") for n in range(10)
]


def score_of(chosen: str) -> EpochScore:
    return score_epoch("00", 1, 5, summarize_validation(QUESTIONS, {"letters": chosen}, "dev", 0.0), [])


def test_touched_and_clean_questions_have_a_score_each() -> None:
    measures = touched_measures(score_of("AAABBBBBBA"), "letters", {"real/q0", "real/q1", "real/q9", "other/q5"})
    touched, clean = measures["exam_touched"], measures["exam_clean"]
    assert (touched.n, touched.value, clean.n, clean.value) == (3, 1.0, 7, 1 / 7)
    assert touched.wilson95 is not None
    assert touched.wilson95[0] < 1.0
    assert touched.detail == {"protocol": "letters", "correct": 3}


def test_without_touched_questions_there_is_nothing_to_report() -> None:
    assert touched_measures(score_of("A" * 10), "letters", {"real/q99"}) == {}
    assert touched_measures(None, "letters", {"real/q0"}) == {}


def test_all_questions_may_be_touched() -> None:
    measures = touched_measures(score_of("A" * 10), "letters", {f"real/q{n}" for n in range(10)})
    assert (measures["exam_clean"].n, measures["exam_clean"].value) == (0, None)


def test_earlier_stages_count(tmp_path: Path) -> None:
    context = ChainContext(
        Workspace(tmp_path), "tiny", ModelEntry(huggingface_id="owner/name"), load_config(), ConsoleReporter(quiet=True)
    )
    question = ExamQuestion(
        "q", "s", "발열과 옆구리 통증으로 병원에 온 52세 남자의 진단은 무엇인가?", QUESTIONS[0].options, 0
    )
    settings = DataConfig.model_validate({"processes": 1, "contamination": {"action": "report"}})
    gates = open_data_gates(PLAIN_TEXT, settings, {"dev": [question]})
    assert len(list(gates.kept([PlainText(question.question.replace("병원에", "병원으로"), "a:1")]))) == 1
    path = data_report(context.workspace.token_cache("00", "tiny"))
    path.parent.mkdir(parents=True)
    gates.report(["a"]).write(path)
    assert DataReport.read(path).contamination.touched == ("q",)
    assert touched_questions(context, find_stage("02")) == {"q"}
    path.write_text("{}", encoding="utf-8")
    assert touched_questions(context, find_stage("01")) == set()
