"""Letters, options and cloze equal the reference; as with Gemma's tokenizer, " A" and some options are one token."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.evaluation.protocols.letters import Letters
from lorachain.evaluation.protocols.options import Cloze, Options
from lorachain.evaluation.scoring import LetterTokens, letter_tokens, score_questions
from lorachain.inference import forward
from lorachain.prompts import ANSWER_CUE
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder
from reference import exam_scores as reference

WORDS = (*LETTERS, "열", "위염", "간")
"""Single tokens with their space: of the options below some are one token, some are several."""
TEXTS = ("열", "위염", "기침", "간 x", "aspirin 2", "간", "B12", "y")
TOLERANCE = 2e-4


def gemma_like(*, chat: bool = False) -> Any:
    return make_tokenizer(chat=chat, words=WORDS)


def models() -> dict[str, Any]:
    return {"text": make_text_model(), "multimodal": make_multimodal_model()}


MODELS = models()
kinds = st.sampled_from(sorted(MODELS))
option_lists = st.lists(st.sampled_from(TEXTS), min_size=5, max_size=5, unique=True)
question_texts = st.text("열간위염 가나x?", min_size=1, max_size=30).filter(lambda text: bool(text.strip()))


def question_of(text: str, options: Sequence[str], number: int = 0) -> ExamQuestion:
    a, b, c, d, e = options
    return ExamQuestion(f"q{number}", "doctor", text, (a, b, c, d, e), number % 5)


def exam(count: int) -> list[ExamQuestion]:
    rng = random.Random(1)
    return [question_of("열 간 " * rng.randint(1, 8) + "?", rng.sample(TEXTS, 5), i) for i in range(count)]


def test_the_tokenizer_is_like_gemmas() -> None:
    tokenizer = gemma_like()
    assert [len(reference.ids_of(tokenizer, f" {word}")) for word in WORDS] == [1] * len(WORDS)
    assert letter_tokens(TokenEncoder(tokenizer)).shared == []
    assert tokenizer.decode(reference.ids_of(tokenizer, "열 위염 A (B)")) == "열 위염 A (B)"


@settings(max_examples=12)
@given(kinds, st.booleans(), question_texts, option_lists)
def test_letters_and_options_equal_the_reference(kind: str, chat: bool, text: str, options: list[str]) -> None:
    model, tokenizer = MODELS[kind], gemma_like(chat=chat)
    prompt = reference.prompt_ids(tokenizer, reference.question_text(text, options))
    (score,) = score_questions(model, TokenEncoder(tokenizer), [question_of(text, options)])
    assert score.letter_logprobs == pytest.approx(reference.letters(model, tokenizer, prompt), abs=TOLERANCE)
    expected = reference.options_after(model, tokenizer, prompt, options)
    assert score.option_logprobs == pytest.approx(expected, abs=1e-3)
    assert score.prompt_tokens == len(prompt)


@settings(max_examples=8)
@given(kinds, st.lists(st.tuples(question_texts, option_lists), min_size=2, max_size=4))
def test_a_batch_equals_the_reference_question_by_question(kind: str, drawn: list[tuple[str, list[str]]]) -> None:
    """One-token options have an empty continuation, which must not move what the next one is read from."""
    model, tokenizer = MODELS[kind], gemma_like()
    questions = [question_of(text, options, i) for i, (text, options) in enumerate(drawn)]
    results = Options().score(model, TokenEncoder(tokenizer), questions)
    for question, result in zip(questions, results, strict=True):
        prompt = reference.prompt_ids(tokenizer, reference.question_text(question.question, question.options))
        sums = reference.options_after(model, tokenizer, prompt, question.options)
        assert result.logprobs == pytest.approx(sums, abs=1e-3)
        by_character = reference.per_character(sums, question.options)
        for reading, scores in (("sum", sums), ("per_character", by_character)):
            choice = reference.clear_choice(scores, 1e-3)
            assert choice in (None, result.detail[reading])
        assert result.chosen == result.detail["sum"]


def test_single_token_options_have_no_continuation() -> None:
    tokenizer = make_tokenizer(words=(*LETTERS, *"가나다라마"))
    model, question = MODELS["text"], question_of("무엇?", "가나다라마")
    prompt = reference.prompt_ids(tokenizer, reference.question_text(question.question, question.options))
    (score,) = score_questions(model, TokenEncoder(tokenizer), [question])
    assert score.option_tokens == (1,) * 5
    assert score.option_logprobs == pytest.approx(
        reference.options_after(model, tokenizer, prompt, question.options), abs=TOLERANCE
    )
    assert score.letter_logprobs == pytest.approx(reference.letters(model, tokenizer, prompt), abs=TOLERANCE)


@pytest.mark.parametrize("shared", [[], [9], [9, 200], [9, 200, 31]])
@pytest.mark.parametrize("with_options", [True, False])
@pytest.mark.parametrize("orders", [1, 5])
def test_letters_are_read_after_every_token_that_they_share(
    monkeypatch: pytest.MonkeyPatch, shared: list[int], with_options: bool, orders: int
) -> None:
    """A tokenizer may need several tokens for the space, as bytes are."""
    model, tokenizer, question = MODELS["text"], gemma_like(), exam(1)[0]
    ids = [reference.ids_of(tokenizer, f" {letter}")[0] for letter in LETTERS]
    monkeypatch.setattr("lorachain.evaluation.scoring.letter_tokens", lambda encoder: LetterTokens(shared, ids))
    (score,) = score_questions(
        model, TokenEncoder(tokenizer), [question], with_options=with_options and orders == 1, all_orders=orders > 1
    )
    assert len(score.logprobs_by_order) == orders
    for shift, logprobs in enumerate(score.logprobs_by_order):
        options = [question.options[(i + shift) % 5] for i in range(5)]
        prompt = reference.prompt_ids(tokenizer, reference.question_text(question.question, options))
        at_cue = reference.logits_of(model, [*prompt, *shared])[-1][ids]
        assert logprobs == pytest.approx(at_cue.log_softmax(-1).tolist(), abs=TOLERANCE)


def test_letters_in_every_order_equal_the_reference(tiny_model: Any) -> None:
    tokenizer = gemma_like()
    for question, result in zip(
        exam(3), Letters(orders=5).score(tiny_model, TokenEncoder(tokenizer), exam(3)), strict=True
    ):
        expected = reference.letters_in_every_order(tiny_model, tokenizer, question.question, question.options)
        assert result.logprobs == pytest.approx(expected, abs=TOLERANCE)
        assert reference.clear_choice(expected, TOLERANCE) in (None, result.chosen)


def test_cloze_equals_the_reference(tiny_model: Any) -> None:
    tokenizer = gemma_like()
    bare = [tokenizer.bos_token_id, *reference.ids_of(tokenizer, "\n" + ANSWER_CUE)]
    for question, result in zip(exam(4), Cloze().score(tiny_model, TokenEncoder(tokenizer), exam(4)), strict=True):
        prompt = reference.prompt_ids(tokenizer, question.question.strip())
        sums = reference.options_after(tiny_model, tokenizer, prompt, question.options)
        pmi = reference.pmi(sums, reference.options_after(tiny_model, tokenizer, bare, question.options))
        assert result.logprobs == pytest.approx(sums, abs=1e-3)
        readings = {"sum": sums, "per_character": reference.per_character(sums, question.options), "pmi": pmi}
        for reading, scores in readings.items():
            assert reference.clear_choice(scores, 2e-3) in (None, result.detail[reading]), reading


def test_the_readings_of_options_differ_and_the_sum_decides(tiny_model: Any) -> None:
    """Otherwise a result by another reading would look the same."""
    results = Options().score(tiny_model, TokenEncoder(gemma_like()), exam(12))
    assert any(result.detail["sum"] != result.detail["per_character"] for result in results)
    readings = Options().report(results)["readings"]
    for name in ("sum", "per_character"):
        assert readings[name]["correct"] == sum(result.detail[name] == result.gold for result in results)
    assert all(result.chosen == result.detail["sum"] for result in results)


# ---- bfloat16 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_text_model, make_multimodal_model])
def test_in_bf16_the_scores_are_the_reference_up_to_its_rounding(make: Any) -> None:
    """The reference reads the same weights, as bf16 has rounded them, in float32."""
    tokenizer, model = gemma_like(), make(dtype=torch.bfloat16)
    exact = make(dtype=torch.bfloat16).float()
    questions = exam(6)
    for question, score in zip(questions, score_questions(model, TokenEncoder(tokenizer), questions), strict=True):
        prompt = reference.prompt_ids(tokenizer, reference.question_text(question.question, question.options))
        letters = reference.letters(exact, tokenizer, prompt)
        options = reference.options_after(exact, tokenizer, prompt, question.options)
        assert score.letter_logprobs == pytest.approx(letters, abs=0.15)
        assert score.option_logprobs == pytest.approx(options, rel=0.02, abs=0.15)
        assert reference.clear_choice(letters, 0.3) in (None, score.chosen_letter)


def test_letters_of_a_bf16_model_are_products_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 has 8 bits: two letters that differ by less than a 256th of their logit would count as equal."""
    model, tokenizer = make_text_model(dtype=torch.bfloat16), gemma_like()
    states: list[torch.Tensor] = []
    original = forward.hidden_states

    def recorded(*arguments: Any) -> torch.Tensor:
        states.append(original(*arguments))
        return states[-1]

    monkeypatch.setattr("lorachain.evaluation.scoring.hidden_states", recorded)
    questions = exam(6)
    scores = score_questions(model, TokenEncoder(tokenizer), questions, with_options=False, token_budget=1)
    assert states[0].dtype == torch.bfloat16
    ids = [reference.ids_of(tokenizer, f" {letter}")[0] for letter in LETTERS]
    head = model.lm_head.weight[ids].double()
    computed = [(hidden.double() @ head.T).log_softmax(-1)[0].tolist() for hidden in states]
    for score in scores:
        assert min(max(abs(a - b) for a, b in zip(score.letter_logprobs, row, strict=True)) for row in computed) < 1e-5
