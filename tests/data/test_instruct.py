"""General instructions from tables: messages, or a prompt and a completion."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorachain.data.chat import MAX_EXCHANGES
from lorachain.data.instruct import load_instructions
from lorachain.errors import DataError
from lorachain.records import Instruction


def write(tmp_path: Path, *rows: dict[str, Any]) -> str:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [message("user", "물음"), message("assistant", "답")]},
        {"messages": [message("user", "물음"), message("model", "답")]},
        {"messages": [message("user", "물음"), message("assistant", "답"), message("user", "또")]},
        {
            "messages": [
                message("user", "물음"),
                message("assistant", "답"),
                message("tool", "1"),
                message("user", "또"),
            ]
        },
        {"prompt": "물음", "completion": "답"},
        {"instruction": "물음", "output": "답"},
        {"Instruction": " 물음 ", "response": "답"},
    ],
)
def test_every_layout_gives_the_first_exchange(tmp_path: Path, row: dict[str, Any]) -> None:
    assert load_instructions([write(tmp_path, row)]).instructions == [Instruction("물음", "답")]


def test_the_later_turns_of_a_conversation_are_read_until_one_is_out_of_turn(tmp_path: Path) -> None:
    turns = [message(role, f"{role} {n}") for n in range(4) for role in ("user", "assistant")]
    whole = [(f"user {n}", f"assistant {n}") for n in range(4)]
    irregular: list[tuple[Any, int]] = [
        (turns, 4),
        (turns[:7], 3),  # the last question has no answer
        ([*turns[:4], message("tool", "x"), *turns[4:]], 2),
        ([*turns[:4], turns[0], *turns[4:]], 2),
        ([*turns[:5], message("assistant", " "), *turns[6:]], 2),
    ]
    for number, (given, count) in enumerate(irregular):
        [item] = load_instructions([write(tmp_path / str(number), {"messages": given})]).instructions
        assert list(item.exchanges) == whole[:count], given


def test_a_conversation_has_at_most_so_many_exchanges(tmp_path: Path) -> None:
    given = [message(role, f"{role} {n}") for n in range(MAX_EXCHANGES + 2) for role in ("user", "assistant")]
    [item] = load_instructions([write(tmp_path, {"messages": given})]).instructions
    assert len(item.exchanges) == MAX_EXCHANGES


def test_a_system_message_precedes_the_prompt(tmp_path: Path) -> None:
    row = {"messages": [message("system", "짧게"), message("user", "물음"), message("assistant", "답")]}
    assert load_instructions([write(tmp_path, row)]).instructions == [Instruction("짧게\n\n물음", "답")]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "물음"}, "no answer"),
        ({"completion": "답"}, "no prompt"),
        ({"messages": "물음"}, "messages that are '물음'"),
        ({"messages": []}, r"roles \(none\)"),
        ({"messages": [message("assistant", "답")]}, "roles assistant"),
        ({"messages": [message("user", "물음"), message("user", "답")]}, "roles user, user"),
        ({"messages": [message("user", " "), message("assistant", "답")]}, "empty message"),
        ({"messages": [message("user", "물음"), {"role": "assistant", "content": [1]}]}, "list"),
    ],
)
def test_a_row_without_an_exchange_is_an_error_or_counted(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    good = {"prompt": "물음", "completion": "답"}
    source = write(tmp_path, good, row)
    with pytest.raises(DataError, match=says) as error:
        load_instructions([source])
    assert ":2: expected messages of a user and an assistant" in str(error.value)
    loaded = load_instructions([source], skip_bad_rows=True)
    assert (len(loaded.instructions), loaded.sources[0].bad_rows) == (1, 1)


def test_duplicates_are_dropped_and_max_samples_limits(tmp_path: Path) -> None:
    rows = [{"prompt": text, "completion": "답"} for text in ("가", "가", "나", "다")]
    source = write(tmp_path, *rows)
    assert [item.prompt for item in load_instructions([source]).instructions] == ["가", "나", "다"]
    limited = load_instructions([source, source], max_samples=2)
    assert [item.prompt for item in limited.instructions] == ["가", "나"]
    assert [info.read_to_end for info in limited.sources] == [False, False]


def test_the_embedded_sample() -> None:
    loaded = load_instructions(["sample"])
    assert len(loaded.instructions) == 48
    assert all(item.prompt and item.completion for item in loaded.instructions)
