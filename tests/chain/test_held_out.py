"""No dev or test question is trained on, and no score stands alone (design, section 3, lines 10 and 11)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chain_making import FinishedChain, make_workspace, options_of, run_command_line
from lorachain.chain.tasks import ExamTask, PlainTextTask, TaskInputs
from lorachain.config import Sources, load_config
from lorachain.data.exam import load_exam
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

PLANTED = "다음 중 간에서 만들어져 담낭에 모였다가 십이지장으로 나오는 것은 무엇인가?"


def row(number: int, question: str, answer: int = 1) -> dict[str, object]:
    options = dict(zip("ABCDE", (f"담즙 {number}", "위액", "침", "땀", "눈물"), strict=True))
    return {"subject": "doctor", "year": 2020, "period": 1, "q_number": number, "question": question} | options | {
        "answer": answer, "cot": "",
    }  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Twelve training questions, one of them also in dev (another number, other spacing), one few-shot; the test split
    is garbage that no reader survives."""
    folder = tmp_path / "exam"
    planted = row(99, PLANTED)
    train = [row(n, f"{n}번째 물음으로서 옳은 것은 무엇인지 고르시오.") for n in range(12)]
    fewshot = row(98, "소량 예시로 나오는 물음이며 이것도 배우면 안 되는 것은?")
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


def inputs(encoder: TokenEncoder, exam: Path, plain_text: Path, folder: Path) -> TaskInputs:
    config = load_config()
    held_out: list[ExamQuestion] = [
        question
        for split in ("dev", "fewshot")
        for question in load_exam([str(exam)], split).questions  # type: ignore[arg-type]
    ]
    return TaskInputs(
        encoder=encoder,
        config=config,
        stage=config.stages["02"],
        sources=Sources(plain_text=[str(plain_text)], dictionary=["sample"], exam=[str(exam)]),
        held_out=held_out,
        answer_style="letters",
        data_folder=folder,
        tokenizer_sha256="of the test",
        skip_bad_rows=False,
        on_message=lambda message: None,
    )


def taught(task: Any, encoder: TokenEncoder) -> list[str]:
    lines = task.packs_of_epoch(0)
    return [encoder.tokenizer.decode(r.ids) for number in range(len(lines)) for r in lines[number]]


def test_a_dev_question_in_train_is_left_out_and_counted(
    tokenizer: Any, exam: Path, plain_text: Path, tmp_path: Path
) -> None:
    encoder = TokenEncoder(tokenizer)
    task = ExamTask(inputs(encoder, exam, plain_text, tmp_path / "data"))
    assert task.counts["questions_also_in_dev_left_out"] == 2  # the planted one and the few-shot example
    assert task.counts["questions"] == 12
    texts = taught(task, encoder)
    assert len(texts) == 12
    assert not [text for text in texts if "십이지장" in text or "소량 예시" in text]


def test_a_dev_question_in_plain_text_is_left_out_and_counted(
    tokenizer: Any, exam: Path, plain_text: Path, tmp_path: Path
) -> None:
    encoder = TokenEncoder(tokenizer)
    task = PlainTextTask(inputs(encoder, exam, plain_text, tmp_path / "data"))
    assert task.counts["documents_with_exam_questions_left_out"] == 1
    assert task.counts["documents"] == 12
    assert not [text for text in taught(task, encoder) if "십이지장" in text]


def test_the_test_split_is_never_opened_by_the_chain(
    tmp_path: Path, save_tiny: Callable[..., Path], exam: Path, plain_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
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


# ---- line 11 ---------------------------------------------------------------------------------------------------------

SCORES = {"accuracy", "exact_match", "letter_accuracy", "recall_rate"}


def dicts_with_scores(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if SCORES & value.keys():
            yield path, value
        for key, inner in value.items():
            yield from dicts_with_scores(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from dicts_with_scores(inner, path)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_no_score_stands_without_n_interval_split_protocol_and_version(
    finished_chain: Callable[..., FinishedChain], kind: str
) -> None:
    """Every JSON file that the chain wrote; a breakdown (per subject, by direction) stands within a score that has
    split, protocol and version."""
    chain = finished_chain(kind)
    seen = 0
    for path in [*chain.model.rglob("*.json"), *chain.model.rglob("*.jsonl")]:
        if path.name in ("tokenizer.json", "tokenizer_config.json"):
            continue
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            for place, found in dicts_with_scores(json.loads(text)):
                seen += 1
                where = f"{path.relative_to(chain.model)}{place}"
                assert {"n", "wilson95"} <= found.keys(), where
                assert found["n"] > 0, where
                if "/per_" not in place and "/by_" not in place:
                    assert {"split", "protocol", "version"} <= found.keys(), where
    assert seen > 50


def test_every_table_shows_n_and_interval_beside_an_accuracy(finished_chain: Callable[..., FinishedChain]) -> None:
    words = finished_chain("text").out
    assert words.count("n=") >= words.count(" % [") > 0
