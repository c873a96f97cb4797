"""No dev, few-shot or test question is trained on, and no score lacks what it needs (design, section 3, 10 and 11)."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from chain_making import TWO_LAYERS, FinishedChain, make_workspace, options_of, run_command_line
from lorachain.artifacts import DataReport, TrainingInfo
from lorachain.chain.context import load_config
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.tasks.base import StageTask, TaskInputs
from lorachain.chain.tasks.dictionary import load_dictionary_task
from lorachain.chain.tasks.exam import load_exam_task
from lorachain.chain.tasks.instruct import load_instruct_task
from lorachain.chain.tasks.plain_text import load_plain_text_task
from lorachain.report.tables import chain_table, stage_table
from lorachain.tokens import TokenEncoder
from lorachain.workspace import TRAINING_INFO, data_report

PLANTED = "다음 중 간에서 만들어져 담낭에 모였다가 십이지장으로 나오는 것은 무엇인가?"
FEWSHOT = "소량 예시로 나오는 물음이며 이것도 배우면 안 되는 것은?"


def row(number: int, question: str, answer: int = 1) -> dict[str, object]:
    options = dict(zip("ABCDE", (f"담즙 {number}", "위액", "침", "땀", "눈물"), strict=True))
    return {"subject": "doctor", "year": 2020, "period": 1, "q_number": number, "question": question} | options | {
        "answer": answer, "cot": "",
    }  # fmt: skip


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Twelve training questions, one more that is also in dev (with another number and other spaces), and one that is
    also a few-shot example. No reader survives the test split."""
    folder = tmp_path / "exam"
    planted = row(99, PLANTED)
    train = [row(n, f"{n}번째 물음으로서 옳은 것은 무엇인지 고르시오.") for n in range(12)]
    fewshot = row(98, FEWSHOT)
    write_rows(
        folder / "doctor" / "train.jsonl", [*train, {**planted, "q_number": 55, "question": f" {PLANTED} "}, fewshot]
    )
    write_rows(
        folder / "doctor" / "dev.jsonl", [planted, *[row(n, f"검증용 {n}번째 물음입니다.") for n in range(60, 66)]]
    )
    write_rows(folder / "doctor" / "fewshot.jsonl", [fewshot])
    (folder / "doctor" / "test.jsonl").write_bytes(b"\x00\xff\xfe{{{ not JSON at all \x80\n" * 5)
    return folder


@pytest.fixture
def plain_text(tmp_path: Path) -> Path:
    texts = [f"{n}번째 문서는 간과 담낭을 다룬다. 담즙은 지방의 소화를 돕는다." for n in range(12)]
    texts.append(f"기출: {PLANTED.replace(' ', '  ')} 답은 담즙이다.")
    write_rows(tmp_path / "plain.jsonl", [{"text": text} for text in texts])
    return tmp_path / "plain.jsonl"


def inputs(encoder: TokenEncoder, stage: str, source: Path, exams: list[Path], cache: Path) -> TaskInputs:
    config = load_config()
    questions = load_exam_questions([str(exam) for exam in exams], max_questions=0, skip_bad_rows=False)
    return TaskInputs(
        encoder=encoder,
        stage=config.stages[stage],
        validation=config.validation,
        seed=0,
        sources=[str(source)],
        dev=[],
        held_out=questions.held_out,
        answer_style="letters",
        cache=cache,
        tokenizer_sha256="of the test",
        skip_bad_rows=False,
        on_message=lambda message: None,
    )


def trained_texts(task: StageTask, encoder: TokenEncoder) -> list[str]:
    packs: Any = task.packs_of_epoch(0)
    return [encoder.tokenizer.decode(row.ids) for number in range(len(packs)) for row in packs[number]]


def test_a_dev_question_in_train_is_left_out_and_counted(tokenizer: Any, exam: Path, tmp_path: Path) -> None:
    encoder = TokenEncoder(tokenizer)
    task = load_exam_task(inputs(encoder, "02", exam, [exam], tmp_path / "cache"))
    assert task.counts["questions_also_in_dev_left_out"] == 2  # the planted one and the few-shot example
    assert task.counts["questions"] == 12
    texts = trained_texts(task, encoder)
    assert len(texts) == 12 + 1  # one of ten asks for a JSON object too
    assert not [text for text in texts if "십이지장" in text or "소량 예시" in text]


def test_a_dev_question_in_plain_text_is_left_out_and_counted(
    tokenizer: Any, exam: Path, plain_text: Path, tmp_path: Path
) -> None:
    encoder = TokenEncoder(tokenizer)
    task = load_plain_text_task(inputs(encoder, "00", plain_text, [exam], tmp_path / "cache"))
    assert task.counts["documents_with_exam_questions_left_out"] == 1
    assert task.counts["documents"] == 12
    assert not [text for text in trained_texts(task, encoder) if "십이지장" in text]


def test_a_reformatted_dev_question_is_left_out_of_every_kind_of_data(
    tokenizer: Any, exam: Path, tmp_path: Path
) -> None:
    """What verbatim search misses: other particles, full-width letters, options in another order."""
    changed = PLANTED.replace("간에서", "간에").replace("것은", "것이").replace("담낭에", "담낭으로")
    texts = [f"{n}번째 문서는 간과 담낭을 다룬다." for n in range(12)]
    write_rows(tmp_path / "plain.jsonl", [{"text": text} for text in [*texts, f"기출: {changed} 답은 담즙이다."]])
    terms: list[dict[str, object]] = [{"term": f"용어{n}", "definition": f"{n}번째 뜻풀이"} for n in range(8)]
    write_rows(tmp_path / "terms.jsonl", [*terms, {"term": "기출", "definition": PLANTED}])
    prompts: list[dict[str, object]] = [{"prompt": f"{n}번째 지시", "completion": "예"} for n in range(8)]
    write_rows(tmp_path / "instruct.jsonl", [*prompts, {"prompt": changed, "completion": "담즙"}])
    encoder = TokenEncoder(tokenizer)
    loads: list[tuple[str, str, Callable[[TaskInputs], StageTask], str]] = [
        ("00", "plain", load_plain_text_task, "documents_with_exam_questions_left_out"),
        ("01", "terms", load_dictionary_task, "entries_with_exam_questions_left_out"),
        ("01", "instruct", load_instruct_task, "instructions_with_exam_questions_left_out"),
    ]
    for stage, source, load, count in loads:
        cache = tmp_path / source / "tokens"
        task = load(inputs(encoder, stage, tmp_path / f"{source}.jsonl", [exam], cache))
        assert task.counts[count] == 1, source
        report = DataReport.read(data_report(cache))
        assert [match.question for match in report.contamination.matches] == ["exam/doctor-2020-1-99"]
        assert report.kept == report.records - 1


@pytest.mark.parametrize("without_first", [False, True])
def test_an_exam_without_few_shot_examples_does_not_admit_those_of_another(
    tokenizer: Any, exam: Path, tmp_path: Path, without_first: bool
) -> None:
    without = tmp_path / "without"
    write_rows(without / "nurse" / "dev.jsonl", [row(1, "소량 예시가 없는 시험의 물음입니다.")])
    exams = [without, exam] if without_first else [exam, without]
    encoder = TokenEncoder(tokenizer)
    task = load_exam_task(inputs(encoder, "02", exam, exams, tmp_path / "cache"))
    assert task.counts["questions_also_in_dev_left_out"] == 2
    assert not [text for text in trained_texts(task, encoder) if "소량 예시" in text]


def test_max_questions_limits_validation_but_not_what_is_held_out(exam: Path) -> None:
    few = load_exam_questions([str(exam)], max_questions=2, skip_bad_rows=False)
    every = load_exam_questions([str(exam)], max_questions=0, skip_bad_rows=False)
    assert (len(few.dev), len(every.dev)) == (2, 7)
    assert few.held_out == every.held_out
    assert {PLANTED, FEWSHOT} <= {question.question for question in few.held_out}


def test_the_test_split_is_never_opened_by_the_chain(
    tmp_path: Path, save_tiny: Callable[..., Path], exam: Path, plain_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text", **TWO_LAYERS))
    opened: list[str] = []
    plain_open = Path.open

    def watched(self: Path, *arguments: Any, **settings: Any) -> Any:
        opened.append(self.name)
        return plain_open(self, *arguments, **settings)

    monkeypatch.setattr(Path, "open", watched)
    sources = ("--plain-text", plain_text, "--exam", exam)
    code, _, err = run_command_line("run", *options_of(root), *sources, "--epochs", "1,1,1")
    assert code == 0, err
    assert "dev.jsonl" in opened
    assert "test.jsonl" not in opened
    infos = {s: json.loads((root / f"model/{s}_trained/tiny/training_info.json").read_text()) for s in ("00", "02")}
    assert infos["00"]["counts"]["documents_with_exam_questions_left_out"] == 1
    assert infos["02"]["counts"]["questions_also_in_dev_left_out"] == 2
    for info in infos.values():
        assert not [name for source in info["exam_sources"] for name in source["files"] if "test" in name]


# ---- scores ----------------------------------------------------------------------------------------------------------

ACCURACY = re.compile(r"\d+(?:\.\d+)? %")
WITH_INTERVAL_AND_N = re.compile(r"\d+\.\d % \[-?\d+\.\d, -?\d+\.\d\] n=\d+")


def cells_of(table: Table) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]


def test_every_table_shows_n_and_interval_beside_an_accuracy(finished_chain: Callable[..., FinishedChain]) -> None:
    """Cell by cell: nothing that looks like an accuracy is without either. Tables of weights show no accuracy."""
    chain = finished_chain("text")
    infos = [
        TrainingInfo.read(chain.model / f"{stage}_trained" / "tiny" / TRAINING_INFO) for stage in ("00", "01", "02")
    ]
    tables = [chain_table(infos, None, "chain"), *(stage_table(info, info.stage) for info in infos)]
    accuracies = 0
    for table in tables:
        for cell in cells_of(table):
            shown = ACCURACY.findall(cell)
            assert len(shown) == len(WITH_INTERVAL_AND_N.findall(cell)), cell
            accuracies += len(shown)
    # Before and after by two protocols in each of three stages; exact match and direct against explained answers.
    assert accuracies >= 2 * (3 * 2 * 2 + 2)
    shown_by_run = " ".join(chain.out.split())
    for info in infos:
        for score in info.validation.after.values():
            low, high = score.wilson95
            numbers = (f"{100 * score.accuracy:.1f} %", f"[{100 * low:.1f},", f"{100 * high:.1f}]", f"n={score.n}")
            assert all(number in shown_by_run for number in numbers), numbers
