"""The step 02_reasoning: off, written, interrupted, stale; and stage 02, which trains on what was written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from chain_making import options_of, unmeasured
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.data.exam import load_exam, load_fewshot
from lorachain.data.exam_writer import exam_row, write_json_lines

Command = Callable[..., tuple[int, str, str]]
WRITE = (
    "--set", "reasoning.max_questions=4", "--set", "reasoning.samples=2", "--set", "reasoning.max_new_tokens=16",
    "--set", "reasoning.max_prompt_tokens=1024",
)  # fmt: skip
ON = (*WRITE, "--set", "reasoning.enabled=true")


@pytest.fixture
def answers(tmp_path: Path) -> str:
    """The embedded exam without its reasoning, as a source."""
    target = tmp_path / "answers"
    for split in ("train", "dev", "fewshot"):
        questions = load_exam(["sample"], "train" if split == "train" else "dev").questions
        if split == "fewshot":
            questions = load_fewshot(["sample"]).questions
        for subject in {question.subject for question in questions}:
            rows = [exam_row(question) for question in questions if question.subject == subject]
            kept = rows if split == "fewshot" else [{**row, "cot": ""} for row in rows]
            write_json_lines(target / subject / f"{split}.jsonl", kept)
    return str(target)


def folder(root: Path) -> Path:
    return root / "model" / "02_training" / "tiny" / "reasoning"


def info_of_02(root: Path) -> dict[str, Any]:
    text = (root / "model" / "02_trained" / "tiny" / "training_info.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def test_it_is_off_for_a_model_without_reasoning(finished_copy: Path, lorachain: Command) -> None:
    code, out, err = lorachain("status", *options_of(finished_copy))
    assert code == 0, err
    assert "reasoning.enabled is auto" in " ".join(out.split())
    assert not folder(finished_copy).exists()
    assert lorachain("run", *options_of(finished_copy))[0] == 0


def test_a_run_writes_reasoning_and_skips_it_afterwards(finished_copy: Path, lorachain: Command, answers: str) -> None:
    code, _, err = lorachain("run", *options_of(unmeasured(finished_copy)), *ON, "--exam", answers, "--yes")
    assert code == 0, err
    assert "writing 2 samples for each of 4 questions" in err
    assert "at most about" in err
    report = ReasoningReport.read(folder(finished_copy) / "reasoning_report.json")
    assert report.total.drawn == 8
    assert report.by_parent
    assert "Gemma Terms of Use" in report.licence or "not known" in report.licence
    rows = pq.read_table(folder(finished_copy) / "samples.parquet").to_pylist()
    assert len(rows) == 8
    assert {row["rejected_by"] for row in rows if not row["kept"]}
    before = {path: path.read_bytes() for path in folder(finished_copy).rglob("*") if path.is_file()}
    code, _, err = lorachain("run", *options_of(finished_copy), *ON, "--exam", answers)
    assert code == 0
    assert "02_reasoning: written reasoning is finished" in err
    assert before == {path: path.read_bytes() for path in folder(finished_copy).rglob("*") if path.is_file()}


def test_other_settings_make_it_stale_and_more_samples_add(
    finished_copy: Path, lorachain: Command, answers: str
) -> None:
    write = ("write-reasoning", *options_of(finished_copy), *WRITE, "--exam", answers)
    assert lorachain(*write)[0] == 0
    journal = folder(finished_copy).with_name("reasoning.journal.jsonl")
    first = journal.read_bytes()
    code, _, err = lorachain(*write, "--temperature", "0.5")
    assert code == 2
    assert "reasoning.temperature was 0.8, is 0.5" in err
    code, _, err = lorachain(*write, "--samples", "3", "--yes")
    assert code == 0, err
    assert journal.read_bytes().startswith(first)
    assert len(journal.read_bytes()) > len(first)
    code, _, err = lorachain(*write, "--temperature", "0.5", "--yes")
    assert code == 0, err
    assert "its samples are in" in err
    assert journal.with_name(f"{journal.name}.superseded").exists()


def test_stage_02_trains_on_what_was_written(finished_copy: Path, lorachain: Command, answers: str) -> None:
    """Two versions of a question with reasoning train it twice with reasoning, and its direct answer once."""
    write = ("write-reasoning", *options_of(unmeasured(finished_copy)), *WRITE, "--exam", answers)
    assert lorachain(*write)[0] == 0
    question = load_exam([answers], "train").questions[0]
    row = exam_row(question)
    shutil.rmtree(folder(finished_copy) / "exam", ignore_errors=True)
    versions = [{**row, "cot": "첫째 풀이이다."}, {**row, "cot": "다른 풀이이다."}]
    write_json_lines(folder(finished_copy) / "exam" / "doctor" / "train.jsonl", versions)
    train = ("train", "02", *options_of(finished_copy), "--set", "stages.02.max_samples=1000", "--exam", answers)
    code, _, err = lorachain(*train, "--yes")
    assert code == 0, err
    info = info_of_02(finished_copy)
    assert info["counts"]["questions_with_reasoning"] == 2
    assert [Path(source["name"]).name for source in info["sources"]] == ["answers", "exam"]
    assert folder(finished_copy).is_dir()  # the run before was moved aside, the reasoning was not
    assert (finished_copy / "model" / "02_training" / ".tiny.superseded").is_dir()
    code, _, err = lorachain(*train, "--set", "reasoning.enabled=false")
    assert code == 2
    assert "sources were" in err


def test_without_reasoning_train_02_says_how_to_write_some(
    finished_copy: Path, lorachain: Command, answers: str
) -> None:
    code, _, err = lorachain("train", "02", *options_of(unmeasured(finished_copy)), "--exam", answers, "--yes")
    assert code == 0, err
    assert "no training question has reasoning: answers alone are trained" in err
    assert "lorachain write-reasoning --model tiny" in err


def test_questions_with_reasoning_are_left_as_they_are(finished_copy: Path, lorachain: Command) -> None:
    code, _, err = lorachain("run", *options_of(finished_copy), *ON)
    assert code == 0, err
    assert "none written: 293 training questions have reasoning already" in err
    code, out, _ = lorachain("status", *options_of(finished_copy))
    assert code == 0
    assert "02_reasoning" in out
    assert not (folder(finished_copy) / "exam").exists()


def test_another_writer_and_another_directory(
    finished_copy: Path, lorachain: Command, answers: str, tmp_path: Path
) -> None:
    out = tmp_path / "written"
    code, _, err = lorachain(
        *("write-reasoning", *options_of(finished_copy), *WRITE, "--exam", answers),
        *("--from", "02", "--out", out, "--subjects", "nurse"),
    )
    assert code == 0, err
    report = ReasoningReport.read(out / "reasoning_report.json")
    assert report.depends_on.writer.model == "tiny:02"
    assert set(report.per_subject) == {"nurse"}
    assert not report.by_parent
    assert not folder(finished_copy).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples", "0"), "reasoning.samples"),
        (("--temperature", "0"), "reasoning.temperature"),
        (("--set", "reasoning.orders=5"), "reasoning.orders"),
        (("--from", "nowhere"), "'nowhere' is not a model that can be scored"),
        (("--subjects", "astrology"), "no question of the subject astrology"),
    ],
)
def test_bad_input_is_one_message(
    finished_copy: Path, lorachain: Command, answers: str, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = lorachain("write-reasoning", *options_of(finished_copy), *WRITE, "--exam", answers, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.fixture
def half(tmp_path: Path) -> str:
    """The embedded exam, where only every other training question has its reasoning."""
    target = tmp_path / "half"
    for split in ("train", "dev"):
        questions = load_exam(["sample"], split).questions
        for subject in {question.subject for question in questions}:
            rows = [exam_row(question) for question in questions if question.subject == subject]
            kept = [{**row, "cot": row["cot"] if number % 2 else ""} for number, row in enumerate(rows)]
            write_json_lines(target / subject / f"{split}.jsonl", kept if split == "train" else rows)
    return str(target)


def test_rounds_train_on_each_others_reasoning_and_keep_what_is_finished(
    finished_copy: Path, lorachain: Command, half: str
) -> None:
    """Round 0 is trained on the reasoning of the sources alone; its model, not the parent, writes round 1."""
    write = ("write-reasoning", *options_of(unmeasured(finished_copy)), *WRITE, "--exam", half, "--rounds", "2")
    code, _, err = lorachain(*write)
    assert code == 0, err
    rounds = [folder(finished_copy).with_name(f"reasoning-round-{number}") for number in range(3)]
    assert [path.is_dir() for path in rounds] == [True, True, False]
    assert "round 1: " in err
    assert "; stopping" in err
    first = json.loads((rounds[0] / "training_info.json").read_text(encoding="utf-8"))
    assert [Path(source["name"]).name for source in first["sources"]] == ["half"]
    assert first["counts"]["questions_with_reasoning"] > 0
    assert not (rounds[0] / "reasoning_report.json").exists()
    report = ReasoningReport.read(rounds[1] / "reasoning_report.json")
    assert report.depends_on.writer.model == "reasoning-round-0"
    assert info_of_02(finished_copy) == json.loads((rounds[1] / "training_info.json").read_text(encoding="utf-8"))

    before = {path: path.read_bytes() for path in rounds[1].rglob("*") if path.is_file()}
    code, _, err = lorachain(*write)
    assert code == 0, err
    assert "samples passed" not in err
    assert "stage 02" not in err
    assert before == {path: path.read_bytes() for path in rounds[1].rglob("*") if path.is_file()}


def test_another_writer_replaces_reasoning_only_with_consent(
    finished_copy: Path, lorachain: Command, answers: str
) -> None:
    write = ("write-reasoning", *options_of(finished_copy), *WRITE, "--exam", answers)
    assert lorachain(*write)[0] == 0
    before = (folder(finished_copy) / "reasoning_report.json").read_bytes()
    code, _, err = lorachain(*write, "--from", "base")
    assert code == 2
    assert "nothing was changed" in err
    assert (folder(finished_copy) / "reasoning_report.json").read_bytes() == before
    code, _, err = lorachain(*write, "--from", "base", "--yes")
    assert code == 0, err
    report = ReasoningReport.read(folder(finished_copy) / "reasoning_report.json")
    assert report.depends_on.writer.model == "tiny"


@pytest.mark.parametrize("more", [(), ("--from", "01"), ("--rounds", "2"), ("--subjects", "nurse")])
def test_a_dry_run_writes_nothing(finished_copy: Path, lorachain: Command, answers: str, more: tuple[str, ...]) -> None:
    files = {path: path.stat().st_mtime_ns for path in finished_copy.rglob("*")}
    code, out, err = lorachain(
        "write-reasoning", *options_of(finished_copy), *WRITE, "--exam", answers, *more, "--dry-run"
    )
    assert code == 0, err
    planned = json.loads(out)
    if more:
        assert planned["questions"] == 4
        assert planned["samples"] == 8
        assert planned["writes"].endswith("reasoning")
    assert files == {path: path.stat().st_mtime_ns for path in finished_copy.rglob("*")}
