"""Exchanges in stage 00: whole, within the chat template's turns, and with loss on the answer only."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorachain.chain.context import load_config
from lorachain.chain.tasks.base import TaskInputs
from lorachain.chain.tasks.plain_text import PlainTextTask, load_plain_text_task
from lorachain.errors import DataError
from lorachain.prompts import instruction_example
from lorachain.records import Instruction
from lorachain.tokens import TokenEncoder

EXCHANGES = [Instruction(f"물음 {n}", f"답 {n}이다.") for n in range(12)]
LONG = Instruction("긴 물음", "긴 답이다. " * 200)


def load(
    tmp_path: Path, tokenizer: Any, exchanges: list[Instruction], texts: int
) -> tuple[PlainTextTask, TokenEncoder]:
    rows = [{"instruction": e.prompt, "output": e.completion} for e in exchanges]
    rows += [{"text": f"{n}번째 글은 간을 다룬다. " * 20} for n in range(texts)]
    source = tmp_path / "mixed.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    encoder = TokenEncoder(tokenizer)
    config = load_config()
    inputs = TaskInputs(
        encoder=encoder,
        stage=config.stages["00"].model_copy(update={"max_length": 96}),
        validation=config.validation,
        seed=0,
        sources=[str(source)],
        dev=[],
        held_out=[],
        answer_style="options",
        cache=tmp_path / "tokens",
        tokenizer_sha256="of the tokenizer",
        skip_bad_rows=False,
        on_message=lambda text: None,
    )
    return load_plain_text_task(inputs), encoder


@pytest.mark.parametrize("chat", [False, True])
def test_exchanges_are_trained_whole_and_on_the_answer_only(
    tmp_path: Path, tokenizer: Any, chat_tokenizer: Any, chat: bool
) -> None:
    task, encoder = load(tmp_path, chat_tokenizer if chat else tokenizer, [*EXCHANGES, LONG], texts=20)
    packs = task.packs_of_epoch(0)
    rows = [row for number in range(len(packs)) for row in packs[number]]
    trained = {(tuple(row.ids), row.supervised_from) for row in rows}
    expected = [encoder.encode(instruction_example(item)) for item in EXCHANGES]
    assert {(tuple(row.ids), row.supervised_from) for row in expected} <= trained
    assert all(row.supervised_from == 1 for row in rows if row.form != "instruct")
    assert (task.counts["exchanges"], task.counts["exchanges_left_out"]) == (12, 1)
    assert max(packs.lengths) <= 96
    assert task.counts["heldout_documents"] == 2
    assert all(row.supervised_from == 1 for row in task.held_out)


def test_exchanges_alone(tmp_path: Path, tokenizer: Any) -> None:
    task, _ = load(tmp_path, tokenizer, EXCHANGES, texts=0)
    assert sum(map(len, task.packs_of_epoch(0))) == len(EXCHANGES)
    assert task.held_out == []


def test_exchanges_that_are_all_too_long(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="each exchange is longer than 96 tokens"):
        load(tmp_path, tokenizer, [LONG, Instruction("둘째", LONG.completion)], texts=0)
