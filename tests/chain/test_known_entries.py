"""The entries that a model knows: each question about a name answered exactly."""

import json
from pathlib import Path
from typing import Any

import pytest

from chain_making import run_command_line
from lorachain.data.dictionary import load_dictionary
from lorachain.evaluation import exact_match as exact_match_module
from refusals import refused

ENTRIES = [
    {"term": "감기", "english": "cold"},
    {"term": "골절", "english": "fracture"},
    {"term": "당뇨병", "english": "diabetes", "category": "E11"},
    {"term": "천식", "definition": "기도가 좁아진다"},
]
RIGHT = {"용어: 감기\n영어:": "cold", "영어: cold\n용어:": "감기", "용어: 골절\n영어:": "fracture"}
RIGHT |= {"용어: 당뇨병\n영어:": "Diabetes", "영어: diabetes\n용어:": "당뇨병"}


@pytest.fixture
def options(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Options of a command whose model gives the answers of RIGHT, and no other."""

    def generate(model: Any, encoder: Any, prompts: Any, *, on_progress: Any, **settings: Any) -> list[str]:
        on_progress(len(prompts))
        texts = [encoder.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [f" {RIGHT.get(text, '모름')}" for text in texts]

    monkeypatch.setattr(exact_match_module, "generate_lines", generate)
    source = root / "terms.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ENTRIES), encoding="utf-8")
    return ("--model", "tiny", "--workspace", root, "--dictionary", source, "--device", "cpu")


def test_an_entry_is_known_where_every_question_is_answered(root: Path, options: tuple[object, ...]) -> None:
    out = root / "known.jsonl"
    code, _, err = run_command_line("known", *options, "--out", out)
    assert code == 0, err
    assert f"base knows 2 of 4 entries, written to {out}" in err
    entries = load_dictionary([str(out)]).entries
    assert [(entry.term, entry.english, entry.category) for entry in entries] == [
        ("감기", "cold", None),
        ("당뇨병", "diabetes", "E11"),
    ]


def test_an_output_is_not_overwritten(root: Path, options: tuple[object, ...]) -> None:
    (root / "known.jsonl").write_text("mine", encoding="utf-8")
    refused(root, "known", *options, "--out", root / "known.jsonl", says=("known.jsonl exists",))
    refused(root, "known", *options, "--out", root / "known.json", says=("must end in .jsonl",))


def test_nothing_known_is_an_error(root: Path, options: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RIGHT", {})
    refused(root, "known", *options, "--out", root / "known.jsonl", says=("base knows none of 4 entries",))
