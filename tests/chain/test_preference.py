"""Stage 02 with `preference`: wrong samples of written reasoning against the accepted ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chain_making import options_of
from conftest import make_tokenizer
from lorachain.artifacts.reasoning import ReasoningInputs, ReasoningReport, WriterIdentity
from lorachain.chain.context import load_config
from lorachain.chain.tasks.base import TaskInputs
from lorachain.chain.tasks.exam import ExamTask, load_exam_task
from lorachain.chain.tasks.wrong_answers import in_order_of
from lorachain.config_reading import parse_setting
from lorachain.data.exam import load_exam
from lorachain.data.exam_writer import exam_row, write_json_lines
from lorachain.errors import ConfigError, DataError, WorkspaceError
from lorachain.prompts import permuted, question_block
from lorachain.provenance import sha256_file
from lorachain.reasoning.publish import publish_reasoning
from lorachain.reasoning.sample import Check, Sample, Written, question_key
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import REJECTED, TokenEncoder, TokenRow

Command = Callable[..., tuple[int, str, str]]
ENCODER = TokenEncoder(make_tokenizer())
RPO = ("--set", "stages.02.preference=rpo")


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Six training questions without reasoning and four dev questions of the embedded sample."""
    parts = {
        "train": [replace(q, reasoning=None) for q in load_exam(["sample"], "train").questions[:6]],
        "dev": load_exam(["sample"], "dev").questions[:4],
    }
    for split, questions in parts.items():
        write_json_lines(tmp_path / "answers" / "doctor" / f"{split}.jsonl", [exam_row(q) for q in questions])
    return tmp_path / "answers"


def sample(question: ExamQuestion, number: int, option: int, failed: list[Check], *, reasoning: str = "") -> Sample:
    """A sample in an order of its own, which answers with an option of the question."""
    order = tuple((i + number + 1) % 5 for i in range(5))
    chosen = order.index(option)
    text = reasoning or f"{number}번째 풀이: {LETTERS[chosen]}. {question.options[option]}에 해당한다."
    written = Written(question_key(question), number, order, hinted=False, text=text, tokens=9, finish="stop")
    return Sample(written, reasoning=text, chosen=chosen, failed=failed)


def write(folder: Path, exam: Path, *, extra: int = 0) -> list[ExamQuestion]:
    """Written reasoning: the first question has an accepted sample and two wrong ones that can be used, the second an
    accepted one alone, the third wrong ones alone."""
    first, second, third, *_ = questions = load_exam([str(exam)], "train").questions
    wrong = [(q.answer + 1) % 5 for q in questions]
    not_used: tuple[Check, ...] = ("finished", "leak", "held_out")
    samples = [
        sample(first, 0, first.answer, []),
        sample(first, 1, wrong[0], ["right"]),
        sample(first, 2, (first.answer + 2) % 5, ["right", "language", "dictionary"]),
        *(sample(first, 3 + i, wrong[0], ["right", c]) for i, c in enumerate(not_used)),
        sample(first, 6, first.answer, ["shuffle"]),
        sample(second, 0, second.answer, []),
        *(sample(third, i, wrong[2], ["right"]) for i in range(2 + extra)),
    ]
    folder.mkdir(parents=True)
    publish_reasoning(
        folder,
        samples,
        {question_key(q): q for q in questions},
        inputs=ReasoningInputs(
            writer=WriterIdentity(engine="local", version="1", model="tiny", weights_sha256=None),
            scorer_sha256="s", questions="q", held_out="h", examples="e", dictionary="d", settings={},
            answer_style="letters", seed=0,
        ),
        fingerprint="f", by_parent=False, samples_per_question=8, skipped={}, licence="", sources=(), exam_sources=(),
        dictionary_sources=(),
    )  # fmt: skip
    return questions


def load(exam: Path, written: Path | None, *, preference: bool = True, tokens: Path) -> ExamTask:
    settings = ["stages.02.preference=rpo"] if preference else []
    config = load_config(overrides=[parse_setting(one) for one in (*settings, "stages.02.max_length=6000")])
    return load_exam_task(
        TaskInputs(
            encoder=ENCODER,
            stage=config.stages["02"].model_copy(update={"json_share": 0.0}),
            validation=config.validation,
            seed=0,
            sources=[str(exam), *([str(written / "exam")] if written else [])],
            dev=[],
            held_out=[],
            answer_style="letters",
            cache=tokens,
            tokenizer_sha256="of the tokenizer",
            skip_bad_rows=False,
            on_message=lambda message: None,
            command=lambda command: f"lorachain {command} --model tiny",
        )
    )


def packs(task: ExamTask, epoch: int) -> list[list[TokenRow]]:
    stored = task.packs_of_epoch(epoch)
    return [stored[index] for index in range(len(stored))]


def prompt(row: TokenRow) -> list[int]:
    return row.ids[: row.supervised_from]


def completion(row: TokenRow) -> str:
    return ENCODER.tokenizer.decode(row.ids[row.supervised_from : -1])


def test_an_accepted_sample_has_a_wrong_one_behind_the_same_prompt(exam: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "written", exam)[0]
    task = load(exam, tmp_path / "written", tokens=tmp_path / "tokens")
    plain = load(exam, tmp_path / "written", preference=False, tokens=tmp_path / "plain")
    assert task.counts["questions_with_reasoning_and_wrong_answers"] == 1
    assert plain.counts == {k: v for k, v in task.counts.items() if not k.endswith("wrong_answers")}
    seen = set()
    for epoch in range(4):
        rows = packs(task, epoch)
        assert [pack[:1] for pack in rows] == packs(plain, epoch)
        ((right, wrong),) = [pack for pack in rows if len(pack) > 1]
        assert wrong.form == REJECTED
        assert prompt(right) == prompt(wrong)
        shown = ENCODER.tokenizer.decode(prompt(wrong))
        options = [line.partition(". ") for line in shown.splitlines() if line[:2] in {f"{one}." for one in LETTERS}]
        text_of = {letter: text for letter, _, text in options}
        answer = completion(wrong).rpartition("정답：")[2].strip()
        assert text_of[answer[0]] == answer[3:] != first.answer_text
        # The letter in the reasoning has followed its option.
        assert f": {answer}에 해당한다" in completion(wrong)
        seen.add(answer[3:])
    assert seen == {first.options[(first.answer + 1) % 5], first.options[(first.answer + 2) % 5]}


def test_a_wrong_answer_whose_letters_are_not_certain_stays_in_its_order(exam: Path) -> None:
    question = load_exam([str(exam)], "train").questions[0]
    wrong = replace(question, answer=(question.answer + 1) % 5, reasoning="정답은 3번이다.")
    assert in_order_of(wrong, question) == wrong
    assert in_order_of(wrong, permuted(question, [1, 0, 2, 3, 4])) is None
    certain = replace(wrong, reasoning=f"A. {question.options[0]}에 해당한다.")
    moved = in_order_of(certain, permuted(question, [1, 0, 2, 3, 4]))
    assert moved is not None
    assert moved.reasoning == f"B. {question.options[0]}에 해당한다."
    assert question_block(moved) == question_block(permuted(question, [1, 0, 2, 3, 4]))
    assert in_order_of(certain, replace(question, question="다른 문제")) is None


def test_without_samples_it_is_refused(exam: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of the sources .*answers.* written reasoning .*lorachain write-reasoning"
    ):
        load(exam, None, tokens=tmp_path / "tokens")
    folder = tmp_path / "written"
    write(folder, exam)
    rows = (folder / "exam" / "doctor" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "exam" / "doctor" / "train.jsonl").write_text(rows[1] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no question has an accepted sample and a wrong one .*reasoning\.samples"):
        load(exam, folder, tokens=tmp_path / "tokens")


def test_samples_that_are_none_are_an_error(exam: Path, tmp_path: Path) -> None:
    folder = tmp_path / "written"
    write(folder, exam)
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "order": "ABXDE"} for row in rows]), folder / "samples.parquet")
    report = ReasoningReport.read(folder / "reasoning_report.json")
    digest = sha256_file(folder / "samples.parquet")
    report.model_copy(update={"samples_sha256": digest}).write(folder / "reasoning_report.json")
    with pytest.raises(WorkspaceError, match=r"samples\.parquet has a sample that is not one"):
        load(exam, folder, tokens=tmp_path / "tokens")


def test_the_chain_trains_it_and_sees_when_the_samples_change(
    finished_copy: Path, lorachain: Command, exam: Path, tmp_path: Path
) -> None:
    train = ("train", "02", *options_of(finished_copy), "--exam", exam, *RPO)
    code, _, err = lorachain(*train, "--yes")
    assert code == 2
    assert "stages.02.preference trains accepted samples against wrong ones" in err
    folder = finished_copy / "model" / "02_training" / "tiny" / "reasoning"
    write(folder, exam)
    code, _, err = lorachain(*train, "--yes")
    assert code == 0, err
    path = finished_copy / "model" / "02_trained" / "tiny" / "training_info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    stage = info["depends_on"]["settings"]["stage"]
    assert (stage["preference"], stage["preference_beta"], stage["preference_weight"]) == ("rpo", 0.1, 1.0)
    assert len(info["depends_on"]["data"]["samples"]) == 64
    assert info["counts"]["questions_with_reasoning_and_wrong_answers"] == 1
    code, out, err = lorachain(*train, "--dry-run")
    assert (code, "fresh" in out) == (0, True), err

    kept = (folder / "exam" / "doctor" / "train.jsonl").read_bytes()
    folder.rename(tmp_path / "before")
    write(folder, exam, extra=1)
    assert (folder / "exam" / "doctor" / "train.jsonl").read_bytes() == kept
    code, _, err = lorachain(*train)
    assert code == 2
    assert "samples of written reasoning changed" in err
    code, _, err = lorachain(*train[:-2])
    assert code == 2
    assert "stage.preference was rpo, is None" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.01.preference=rpo"], r"stages\.01\.preference is rpo, but stage 01 trains no exam; .*: 02"),
        (["stages.02.preference=dpo"], r"'stages\.02\.preference' is 'dpo': input should be 'rpo'"),
        (["stages.02.preference_beta=0.5"], r'preference_weight need preference = "rpo"'),
        (["stages.02.preference=rpo", "stages.02.preference_beta=0.0"], r"'stages\.02\.preference_beta' is 0\.0"),
    ],
)
def test_settings_that_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[parse_setting(one) for one in settings])


def test_it_is_off_by_default_and_can_be_turned_off() -> None:
    def stage(*settings: str) -> Any:
        return load_config(overrides=[parse_setting(one) for one in settings]).stages["02"].model_dump()

    assert stage("stages.02.preference=off") == stage()
    preferring = load_config(overrides=[parse_setting("stages.02.preference=rpo")]).stages["02"]
    assert preferring.without_preference() == load_config().stages["02"]
    assert "preference" not in stage()
    own = stage("stages.02.preference=rpo", "stages.02.preference_beta=0.3")
    assert (own["preference"], own["preference_beta"], own["preference_weight"]) == ("rpo", 0.3, 1.0)
