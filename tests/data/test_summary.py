"""The summary of a source: counts, reasons of refusals, letters, and the examples that training builds."""

import json
from pathlib import Path
from typing import Any

import pytest

from lorachain.data import summary
from lorachain.data.dictionary import load_dictionary
from lorachain.data.summary import detect, summarize_source
from lorachain.dictionary_forms import TRAINED_FORMS
from lorachain.errors import DataError
from lorachain.report.data_summary import summary_lines

OPTIONS = {letter: f"보기 {letter}" for letter in "ABCDE"}


def jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"question": "물음", **OPTIONS, "answer": 1}, "exam"),
        ({"term": "위염", "definition": "염증"}, "dictionary"),
        ({"text": "글"}, "plain text"),
        ({"instruction": "물음", "output": "답"}, "plain text"),
    ],
)
def test_what_a_source_is(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    assert detect(jsonl(tmp_path / "a.jsonl", row)) == kind


def test_a_txt_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("글", encoding="utf-8")
    assert detect(str(tmp_path / "a.txt")) == "plain text"


def test_rows_of_no_known_kind_are_refused_with_a_reason_for_each(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no known kind; .*--as.* as exam: .*no question.* as dictionary: .*no term"):
        detect(jsonl(tmp_path / "a.jsonl", {"x": 1}))
    with pytest.raises(DataError, match="sample: it has a part of each kind"):
        detect("sample")


def test_counts_duplicates_and_refusals(tmp_path: Path) -> None:
    rows = [{"term": f"용어{n}", "definition": "뜻"} for n in range(5)]
    bad = [{"term": "가"}, {"term": "나"}, {"definition": "다"}]
    shown = summarize_source(jsonl(tmp_path / "a.jsonl", *rows, rows[0], *bad), "dictionary")
    assert (shown.records, shown.duplicates, shown.refused_rows, shown.files) == (6, 1, 3, 1)
    assert [refusals.rows for refusals in shown.refused] == [2, 1]
    assert ":7: expected a term with a definition" in shown.refused[0].first
    assert shown.complete


def test_lengths_and_letters(tmp_path: Path) -> None:
    texts = ["가나다abc", "가" * 10, "漢字 12"]
    shown = summarize_source(jsonl(tmp_path / "a.jsonl", *({"text": text} for text in texts)))
    assert shown.characters is not None
    assert (shown.characters.min, shown.characters.p50, shown.characters.max) == (5, 6, 10)
    assert (shown.hangul, shown.latin, shown.other_letters) == pytest.approx((13 / 18, 3 / 18, 2 / 18))


def test_a_limit_is_said(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", *({"text": f"글 {n}"} for n in range(5)))
    limited = summarize_source(source, max_records=3)
    assert (limited.records, limited.complete) == (3, False)
    assert "the first 3 in 1 file" in "\n".join(summary_lines(limited))
    assert summarize_source(source, max_records=5).complete


def test_every_split_of_an_exam_but_test(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "dev", "fewshot", "test")):
        rows = [{"question": f"{split} {n}", **OPTIONS, "answer": 1, "cot": "풀이"} for n in range(number + 1)]
        jsonl(tmp_path / f"doctor_{split}.jsonl", *rows)
    shown = summarize_source(str(tmp_path))
    assert (shown.read_as, shown.splits) == ("exam", {"train": 1, "dev": 2, "fewshot": 3})
    assert shown.reasoning_writers == {"unknown": 6}
    assert "test" not in json.dumps(shown.as_dict()["shown"])


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no entry found\. 1 bad row was skipped"):
        summarize_source(jsonl(tmp_path / "a.jsonl", {"x": 1}), "dictionary")


def test_without_a_model_the_examples_are_plain_prompts() -> None:
    shown = summarize_source("sample", "dictionary", max_records=1).shown[0]
    term = load_dictionary(["sample"], max_samples=1).entries[0]
    assert shown.examples[0].prompt == f"용어: {term.term}\n뜻:"
    assert shown.examples[0].supervised == f" {term.definition}"
    directions = 4 if term.english else 2
    assert shown.further_examples == directions * (1 + len(TRAINED_FORMS["term->english"])) - len(shown.examples)


@pytest.mark.parametrize("chat", [False, True])
def test_with_a_model_the_examples_are_its_tokens(tokenizer: Any, chat_tokenizer: Any, chat: bool) -> None:
    from lorachain.tokens import TokenEncoder

    encoder = TokenEncoder(chat_tokenizer if chat else tokenizer)
    shown = summarize_source("sample", "instructions", encoder=encoder)
    assert shown.tokens is not None
    assert shown.tokens.n == shown.records
    (example,) = shown.shown[0].examples
    assert example.tokens is not None
    assert example.supervised_tokens is not None
    assert 0 < example.supervised_tokens < example.tokens
    assert example.prompt.startswith("<bos>")
    assert example.supervised.endswith("<end_of_turn>" if chat else "<eos>")
    assert ("<start_of_turn>user" in example.prompt) is chat


def test_tokens_of_many_records_are_those_of_a_sample(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorachain.tokens import TokenEncoder

    monkeypatch.setattr(summary, "_TOKENIZED", 5)
    source = jsonl(tmp_path / "a.jsonl", *({"text": "글" * (1 + n // 50)} for n in range(100)))
    shown = summarize_source(source, encoder=TokenEncoder(tokenizer))
    assert shown.tokens is not None
    assert shown.characters is not None
    assert (shown.tokens.n, shown.characters.n) == (5, 100)
    assert shown.tokens.max > shown.tokens.min  # not only the first records


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    shown = summarize_source(jsonl(tmp_path / "a.jsonl", {"text": "가\x1b[31m나\n다"}))
    text = "\n".join(summary_lines(shown))
    assert "\x1b" not in text
    assert "| 다" in text
