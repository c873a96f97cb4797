"""Direct and explained answers side by side: what is counted is what was answered."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_text_model, make_tokenizer
from lorachain.artifacts import Measure
from lorachain.evaluation import explained as module
from lorachain.evaluation.explained import Explanation, explain, explained_correct, explained_measures
from lorachain.evaluation.scoring import score_questions
from lorachain.inference.generate import Generation
from lorachain.prompts import AnswerStyle
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder
from reference import exam_statistics as reference

TEXTS = ("위염", "마른 기침", "두통", "구토", "발진")
QUESTIONS = [ExamQuestion(f"q{i}", "doctor", f"증상 {i}?", TEXTS, i) for i in range(5)]
choices = st.integers(0, 4)
explanations = st.builds(
    Explanation,
    direct=choices,
    explained=st.none() | choices,
    gold=choices,
    generation=st.builds(Generation, st.just("x"), st.integers(1, 9), st.booleans()),
    hangul_share=st.sampled_from([0.0, 0.25, 1.0]),
    contradicts=st.booleans(),
)


@settings(max_examples=25)
@given(st.lists(explanations, min_size=1, max_size=8))
def test_both_measures_count_what_was_answered(answered: list[Explanation]) -> None:
    measures = {name: Measure(**fields) for name, fields in explained_measures(answered).items()}
    n = len(answered)
    direct = [one.direct == one.gold for one in answered]
    explained = [one.explained == one.gold for one in answered]
    for name, hits in (("direct", direct), ("explained", explained)):
        measure = measures[name]
        assert (measure.name, measure.split, measure.unit) == (f"{name} accuracy", "exam dev", "questions")
        assert (measure.n, measure.value) == (n, sum(hits) / n)
        assert measure.wilson95 == pytest.approx(reference.wilson(sum(hits), n))
    detail = measures["explained"].detail
    for name, hits in (("direct", direct), ("explained", explained)):
        assert (detail[name]["n"], detail[name]["correct"]) == (n, sum(hits))
    assert detail["n"] == n
    assert detail["difference"] == pytest.approx(sum(explained) / n - sum(direct) / n)
    assert detail["lost"] == sum(a and not b for a, b in zip(direct, explained, strict=True))
    assert detail["gained"] == sum(b and not a for a, b in zip(direct, explained, strict=True))
    assert detail["mcnemar_p"] == pytest.approx(reference.exact_mcnemar(direct, explained))
    assert ("not significantly different from answering directly" in detail["summary"]) == (detail["mcnemar_p"] >= 0.05)
    differences = [float(b) - float(a) for a, b in zip(direct, explained, strict=True)]
    assert (detail["bootstrap95"] is None) == (n == 1)
    if len(set(differences)) > 1:
        assert reference.plausible_interval(reference.resampled_mean(differences), tuple(detail["bootstrap95"]))
    assert detail["not_parsed"] == len([one for one in answered if one.explained is None])
    assert detail["cut_at_limit"] == len([one for one in answered if not one.generation.ended])
    assert detail["contradictions"] == len([one for one in answered if one.contradicts])
    assert detail["mean_hangul_share"] == pytest.approx(sum(one.hangul_share for one in answered) / n)
    assert detail["mean_tokens"] == pytest.approx(sum(one.generation.tokens for one in answered) / n)
    assert detail["gold"] == "".join(LETTERS[one.gold] for one in answered)
    assert explained_correct(detail) == explained


def answered_with(
    monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], style: AnswerStyle = "letters"
) -> tuple[list[Explanation], dict[str, Any]]:
    arguments: dict[str, Any] = {}

    def generate(model: Any, encoder: Any, prompts: Any, **given: Any) -> list[Generation]:
        arguments.update(given, prompts=[encoder.tokenizer.decode(ids[1:]) for ids in prompts])
        return [Generation(text, len(text), not text.endswith("…")) for text in texts]

    monkeypatch.setattr(module, "generate", generate)
    encoder = TokenEncoder(make_tokenizer())
    questions = QUESTIONS[: len(texts)]
    found = explain(make_text_model(), encoder, questions, style=style, max_new_tokens=33, token_budget=99)
    return found, arguments


@pytest.mark.parametrize("style", ["letters", "options"])
def test_the_direct_answer_is_in_the_trained_form(monkeypatch: pytest.MonkeyPatch, style: AnswerStyle) -> None:
    found, _ = answered_with(monkeypatch, ["정답： A"] * 5, style)
    scores = score_questions(make_text_model(), TokenEncoder(make_tokenizer()), QUESTIONS)
    wanted = [score.chosen_option if style == "options" else score.chosen_letter for score in scores]
    assert [one.direct for one in found] == wanted
    assert [score.chosen_option for score in scores] != [score.chosen_letter for score in scores]
    assert [one.gold for one in found] == [0, 1, 2, 3, 4]


def test_what_an_explanation_names_and_whether_its_answer_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        " 마른 기침이 옳다.\n정답： B. 마른 기침",  # the same
        " 두통이 옳다.\n정답： B. 마른 기침",  # another
        " 두통보다 마른 기침이 옳다.\n정답： B. 마른 기침",  # the last one that is named counts
        " 알 수 없다.\n정답： E. 발진",  # none is named
        " 두통이 옳다 …",  # no answer
    ]
    found, arguments = answered_with(monkeypatch, texts)
    assert [one.explained for one in found] == [1, 1, 1, 4, None]
    assert [one.contradicts for one in found] == [False, True, False, False, False]
    assert [one.generation.ended for one in found] == [True, True, True, True, False]
    assert all(prompt.endswith("풀이：") for prompt in arguments["prompts"])
    assert ["증상 3?" in prompt for prompt in arguments["prompts"]] == [False, False, False, True, False]
    assert (arguments["max_new_tokens"], arguments["token_budget"]) == (33, 99)
    assert arguments.get("temperature", 0.0) == 0.0
    assert arguments["stop"]("정답： B\n")
    assert not arguments["stop"](" 풀이.\n\n정답： B")


def test_the_language_is_that_of_the_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the answer line nor words of the question count."""
    texts = [" 한글이다.\n정답： answer", " english only\n정답： 위염", " 가나 ab\n정답： A"]
    found, _ = answered_with(monkeypatch, texts)
    assert [one.hangul_share for one in found] == [1.0, 0.0, 0.5]
