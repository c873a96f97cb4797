"""Exact match of a dictionary: counts, limits of generation, and the measure that a stage records."""

from dataclasses import replace

import pytest

from conftest import make_text_model, make_tokenizer
from lorachain.artifacts import Measure
from lorachain.errors import DataError
from lorachain.evaluation import exact_match as exact_match_module
from lorachain.evaluation.exact_match import character_f1, entries_sha256, exact_match, normalize
from lorachain.prompts import Prompt, render
from lorachain.records import Term
from lorachain.tokens import TokenEncoder
from reference.exam_statistics import wilson

ENTRIES = [Term("감기", "바이러스 감염", "Common cold"), Term("골절", "뼈가 부러짐"), Term("당뇨병", None, "Diabetes")]


@pytest.mark.parametrize(
    ("a", "b"), [(" Common  Cold\n", "common cold"), ("ＣＯＰＤ", "copd"), ("\u1100\u1161\u11b7기", "감기")]
)
def test_normalize_makes_equal(a: str, b: str) -> None:
    assert normalize(a) == normalize(b)


def test_normalize_keeps_what_differs() -> None:
    assert normalize("제1형 당뇨병") != normalize("제2형 당뇨병")


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        ("감기", "감기", 1.0),
        ("", "감기", 0.0),
        ("", "", 1.0),
        ("감기약", "감기", 0.8),
        ("가가", "가", 2 / 3),
        ("a b", "AB", 1),
    ],
)
def test_character_f1(answer: str, expected: str, f1: float) -> None:
    assert character_f1(answer, expected) == pytest.approx(f1)


def oracle(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[int]:
    """Generates `answers` by the text of the prompt; returns the limits that it is called with."""
    limits: list[int] = []

    def generate(model, encoder, prompts, *, max_new_tokens, token_budget, on_progress):  # type: ignore[no-untyped-def]
        limits.append(max_new_tokens)
        on_progress(len(prompts))
        texts = [encoder.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [answers.get(text, "모름") for text in texts]

    monkeypatch.setattr(exact_match_module, "generate_lines", generate)
    return limits


def prompt(text: str, cue: str) -> str:
    return render(Prompt(text, cue), None)


def test_counts_per_direction_and_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle(
        monkeypatch,
        {
            prompt("뜻: 바이러스 감염", "용어:"): " 감기",
            prompt("용어: 감기", "뜻:"): " 바이러스  감염",
            prompt("용어: 당뇨병", "영어:"): " DIABETES",
        },
    )
    progress: list[int] = []
    result = exact_match(
        make_text_model(), TokenEncoder(make_tokenizer()), ENTRIES, split="train sample", on_progress=progress.append
    )
    counts = {name: (part.exact, part.n) for name, part in result.by_direction.items()}
    assert counts == {
        "definition->term": (1, 2), "term->definition": (1, 2), "english->term": (0, 2), "term->english": (1, 2),
    }  # fmt: skip
    assert (result.exact, result.n) == (2, 6)  # definitions are not in the headline
    assert progress == [2, 4, 6, 8]
    measure = Measure(**result.as_measure())
    assert (measure.name, measure.protocol_version, measure.split) == ("exact match", "1", "train sample")
    assert (measure.n, measure.unit) == (6, "answers")
    assert measure.value == pytest.approx(2 / 6)
    assert measure.wilson95 is not None
    assert measure.wilson95[0] < 2 / 6 < measure.wilson95[1]
    assert measure.detail["exact"] == 2
    f1 = {"definition->term": (1 + 0) / 2, "term->definition": 1 / 2, "english->term": 0, "term->english": 1 / 2}
    correct = {"definition->term": "10", "term->definition": "10", "english->term": "00", "term->english": "01"}
    for name, part in measure.detail["by_direction"].items():
        exact, n = counts[name]
        assert part["wilson95"] == pytest.approx(list(wilson(exact, n)))
        assert (part["n"], part["exact"], part["exact_match"]) == (n, exact, exact / n)
        assert part["character_f1"] == pytest.approx(f1[name])
        assert part["correct"] == correct[name]
    assert measure.detail["character_f1"] == pytest.approx(3 / 8)
    assert measure.summary.startswith("exact match 33.3 % [")
    assert measure.summary.endswith("] n=6")


def test_answers_are_bounded_by_the_longest_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = oracle(monkeypatch, {})
    encoder = TokenEncoder(make_tokenizer())
    exact_match(make_text_model(), encoder, ENTRIES, split="s", ask=["term->english"])
    exact_match(make_text_model(), encoder, ENTRIES, split="s", ask=["term->english"], max_new_tokens=5)
    exact_match(make_text_model(), encoder, [Term("감기", None, "c" * 100)], split="s", ask=["term->english"])
    assert limits == [len(encoder.text_ids(" Common cold")) + 4, 5, 64]


def test_the_token_budget_is_that_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []

    def generate(model, encoder, prompts, *, token_budget, **settings):  # type: ignore[no-untyped-def]
        budgets.append(token_budget)
        return ["x"] * len(prompts)

    monkeypatch.setattr(exact_match_module, "generate_lines", generate)
    exact_match(make_text_model(), TokenEncoder(make_tokenizer()), ENTRIES, split="s", token_budget=77)
    assert set(budgets) == {77}


@pytest.mark.parametrize("changed", range(3))
def test_other_entries_have_another_hash(changed: int) -> None:
    first = entries_sha256(ENTRIES)
    for change in ({"term": "열"}, {"definition": "열"}, {"english": "fever"}):
        others = [replace(entry, **change) if i == changed else entry for i, entry in enumerate(ENTRIES)]
        assert entries_sha256(others) != first
    assert entries_sha256([replace(entry, category="A") for entry in ENTRIES]) == first
    assert entries_sha256(ENTRIES[::-1]) != first


def test_really_generates() -> None:
    result = exact_match(make_text_model(), TokenEncoder(make_tokenizer()), ENTRIES, split="s", max_new_tokens=4)
    assert sum(part.n for part in result.by_direction.values()) == 8
    assert 0 <= result.character_f1 <= 1


def test_only_definitions_have_no_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle(monkeypatch, {})
    result = exact_match(
        make_text_model(), TokenEncoder(make_tokenizer()), ENTRIES, split="s", ask=["term->definition"]
    )
    measure = Measure(**result.as_measure())
    assert measure.n == 0
    assert measure.value is None
    assert measure.wilson95 is None
    assert measure.summary == "exact match: none of the answers could be counted"
    assert measure.detail["by_direction"]["term->definition"]["n"] == 2


def test_nothing_to_ask_is_an_error() -> None:
    with pytest.raises(DataError, match="no entry can be asked"):
        exact_match(make_text_model(), TokenEncoder(make_tokenizer()), ENTRIES[1:2], split="s", ask=["term->english"])
