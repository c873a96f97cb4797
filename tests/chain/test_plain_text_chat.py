"""Exchanges in stage 00: whole, within the chat template's turns, and with loss on the answer only."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorachain.chain.context import load_config
from lorachain.chain.tasks.base import TaskInputs
from lorachain.chain.tasks.plain_text import PlainTextTask, load_plain_text_task
from lorachain.errors import DataError
from lorachain.prompts import instruction_examples
from lorachain.records import Instruction
from lorachain.tokens import TokenEncoder

EXCHANGES = [Instruction(f"물음 {n}", f"답 {n}이다.") for n in range(12)]
LONG = Instruction("긴 물음", "긴 답이다. " * 200)


def messages(item: Instruction) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    texts = [text for exchange in item.exchanges for text in exchange]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def load(
    tmp_path: Path, tokenizer: Any, exchanges: list[Instruction], texts: int, max_length: int = 96
) -> tuple[PlainTextTask, TokenEncoder]:
    rows: list[dict[str, Any]] = [{"messages": messages(item)} for item in exchanges]
    rows += [{"text": f"{n}번째 글은 간을 다룬다. " * 20} for n in range(texts)]
    source = tmp_path / "mixed.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    encoder = TokenEncoder(tokenizer)
    config = load_config()
    inputs = TaskInputs(
        encoder=encoder,
        stage=config.stages["00"].model_copy(update={"max_length": max_length}),
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
    expected = [encoder.encode(example) for item in EXCHANGES for example in instruction_examples(item, encoder.turns)]
    assert {(tuple(row.ids), row.supervised_from) for row in expected} <= trained
    assert all(row.supervised_from == 1 for row in rows if row.form != "instruct")
    assert (task.counts["exchanges"], task.counts["exchanges_left_out"]) == (12, 1)
    assert max(packs.lengths) <= 96
    assert task.counts["heldout_documents"] == 2
    assert all(row.supervised_from == 1 for row in task.held_out)


@pytest.mark.parametrize("chat", [False, True])
def test_every_answer_of_a_conversation_is_supervised_once_after_all_turns_before_it(
    tmp_path: Path, tokenizer: Any, chat_tokenizer: Any, chat: bool
) -> None:
    talk = Instruction("위염은?", "염증이다.", (("위궤양은?", "궤양이다."), ("위암은?", "암이다.")))
    used = chat_tokenizer if chat else tokenizer
    task, encoder = load(tmp_path, used, [talk, EXCHANGES[0]], texts=0, max_length=512)
    packs = task.packs_of_epoch(0)
    rows = sorted((row for number in range(len(packs)) for row in packs[number]), key=len)
    answers = [answer for _, answer in (*talk.exchanges, *EXCHANGES[0].exchanges)]
    assert sorted(used.decode(row.ids[row.supervised_from : -1]) for row in rows) == sorted(answers)
    assert {row.ids[-1] for row in rows} == {encoder.end_id}
    last = max(rows, key=len)
    if chat:  # what the template itself prints of the whole conversation
        printed = used.apply_chat_template(messages(talk), tokenize=False)
        printed = printed[: printed.rindex("암이다.") + len("암이다.")] + encoder.turns.end  # type: ignore[union-attr]
        assert used.decode(last.ids) == printed
    else:
        assert used.decode(last.ids[1:-1]) == "위염은?\n염증이다.\n위궤양은?\n궤양이다.\n위암은?\n암이다."
    assert last.ids.count(encoder.bos_id) == 1
    assert (task.counts["documents"], task.counts["exchanges"]) == (2, 4)


def test_exchanges_alone(tmp_path: Path, tokenizer: Any) -> None:
    task, _ = load(tmp_path, tokenizer, EXCHANGES, texts=0)
    assert sum(map(len, task.packs_of_epoch(0))) == len(EXCHANGES)
    assert task.held_out == []


def test_exchanges_that_are_all_too_long(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="each exchange is longer than 96 tokens"):
        load(tmp_path, tokenizer, [LONG, Instruction("둘째", LONG.completion)], texts=0)
