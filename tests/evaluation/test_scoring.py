"""Letters and options from one forward pass equal a plain loop over full logits."""

import random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.errors import DataError, ModelError, NonFiniteError
from lorachain.evaluation.scoring import first_argmax, letter_tokens, score_questions
from lorachain.prompts import answer_prompt
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import text_decoder


def questions(count: int = 6, seed: int = 0) -> list[ExamQuestion]:
    rng = random.Random(seed)
    words = ["열", "기침", "aspirin", "간", "심장", "B12", "두통", "가", "x"]

    def phrase(shortest: int, longest: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(shortest, longest)))

    return [
        ExamQuestion(f"q{i}", "doctor", phrase(1, 12), tuple(phrase(1, 4) for _ in range(5)), i % 5)  # type: ignore[arg-type]
        for i in range(count)
    ]


def plain_loop(model: Any, encoder: TokenEncoder, question: ExamQuestion) -> tuple[list[float], list[float]]:
    """Full logits, one sequence at a time, without our masks: what the scores must equal."""
    prompt = encoder.prompt_ids(answer_prompt(question))
    letters = letter_tokens(encoder)
    with torch.no_grad():
        at_cue = model(input_ids=torch.tensor([[*prompt, *letters.shared]])).logits[0, -1].float()
        five = at_cue[letters.ids].log_softmax(-1).tolist()
        sums = []
        for text in question.options:
            ids = encoder.text_ids(f" {text}")
            logprobs = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].float().log_softmax(-1)
            sums.append(sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids)))
    return five, sums


@pytest.mark.parametrize("chat", [False, True])
def test_equals_the_plain_loop(tiny_model: Any, chat: bool) -> None:
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    exam = questions()
    assert min(len(encoder.prompt_ids(answer_prompt(q))) for q in exam) > 16  # beyond the sliding window
    for question, score in zip(exam, score_questions(tiny_model, encoder, exam), strict=True):
        five, sums = plain_loop(tiny_model, encoder, question)
        assert score.letter_logprobs == pytest.approx(five, abs=1e-4)
        assert score.option_logprobs == pytest.approx(sums, rel=1e-5, abs=1e-3)
        assert score.option_tokens == tuple(len(encoder.text_ids(f" {text}")) for text in question.options)
        assert score.option_chars == tuple(map(len, question.options))
        assert (score.id, score.gold) == (question.id, question.answer)
        assert score.chosen_letter == five.index(max(five))
        assert score.chosen_option == sums.index(max(sums))


def test_of_equal_scores_the_first_is_chosen() -> None:
    assert first_argmax([1.0, 2.0, 2.0, 0.5]) == 1
    assert first_argmax([0.0] * 5) == 0
    assert first_argmax([-3.0, -2.0, -1.0]) == 2


def test_eager_attention_gives_the_same() -> None:
    encoder = TokenEncoder(make_tokenizer())
    model = make_text_model()
    expected = score_questions(model, encoder, questions(2))
    model.set_attn_implementation("eager")
    for a, b in zip(expected, score_questions(model, encoder, questions(2)), strict=True):
        assert a.letter_logprobs == pytest.approx(b.letter_logprobs, abs=1e-4)
        assert a.option_logprobs == pytest.approx(b.option_logprobs, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("budget", [1, 400, 100_000])
def test_order_and_batch_size_do_not_matter(budget: int) -> None:
    model, encoder, exam = make_text_model(), TokenEncoder(make_tokenizer()), questions(7)
    alone = {q.id: score_questions(model, encoder, [q])[0] for q in exam}
    progress: list[int] = []
    order = exam[::-1]
    together = score_questions(model, encoder, order, token_budget=budget, on_progress=progress.append)
    assert [score.id for score in together] == [q.id for q in order]
    assert progress == sorted(progress)
    assert progress[-1] == len(exam)
    for score in together:
        assert score.letter_logprobs == pytest.approx(alone[score.id].letter_logprobs, abs=1e-4)
        assert score.option_logprobs == pytest.approx(alone[score.id].option_logprobs, rel=1e-5, abs=1e-3)
        assert score.chosen_letter == alone[score.id].chosen_letter
        assert score.chosen_option == alone[score.id].chosen_option


def test_letters_alone_equal_letters_with_options() -> None:
    model, encoder = make_multimodal_model(), TokenEncoder(make_tokenizer())
    both = score_questions(model, encoder, questions(3))
    letters = score_questions(model, encoder, questions(3), with_options=False)
    for a, b in zip(both, letters, strict=True):
        assert a.letter_logprobs == pytest.approx(b.letter_logprobs, abs=1e-4)
        assert b.option_logprobs is None
        with pytest.raises(ValueError, match="without options"):
            _ = b.chosen_option


def test_options_of_one_byte() -> None:
    """With the tiny tokenizer " x" is two ids, so that each continuation is the space alone."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    question = ExamQuestion("q", "s", "무엇?", ("a", "b", "c", "d", "e"), 0)
    five, sums = plain_loop(model, encoder, question)
    (score,) = score_questions(model, encoder, [question])
    assert score.letter_logprobs == pytest.approx(five, abs=1e-4)
    assert score.option_logprobs == pytest.approx(sums, abs=1e-3)


def test_training_mode_is_restored() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    score_questions(model, encoder, questions(1))
    assert [module.training for module in model.modules()] == before


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the largest last dimension of any computed tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.widest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            # Views of the weights are not computed tensors.
            if isinstance(tensor, torch.Tensor) and tensor.dim() and not tensor._is_view():
                self.widest = max(self.widest, tensor.shape[-1])
        return result


def test_letters_never_build_a_row_of_the_vocabulary() -> None:
    model, encoder = make_text_model(vocab_size=5_003), TokenEncoder(make_tokenizer())
    with LargestTensor() as largest:
        score_questions(model, encoder, questions(3), with_options=False)
    assert 0 < largest.widest < 5_003


def test_options_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorachain.inference.logprobs.VOCABULARY_BLOCK", 512)
    monkeypatch.setattr("lorachain.inference.logprobs.ROW_BLOCK", 16)
    model, encoder, exam = make_text_model(vocab_size=5_003), TokenEncoder(make_tokenizer()), questions(3)
    with LargestTensor() as largest:
        scores = score_questions(model, encoder, exam)
    assert largest.widest < 5_003
    _, sums = plain_loop(model, encoder, exam[0])
    assert scores[0].option_logprobs == pytest.approx(sums, rel=1e-5, abs=1e-3)


def test_letters_are_read_after_a_split_space() -> None:
    encoder = TokenEncoder(make_tokenizer())
    letters = letter_tokens(encoder)
    assert letters.shared == encoder.text_ids(" ")
    assert letters.ids == [encoder.text_ids(letter)[0] for letter in "ABCDE"]


def test_letters_that_no_token_distinguishes_are_refused() -> None:
    encoder = TokenEncoder(make_tokenizer())
    encoder.text_ids = lambda text: [7, 8] if text in (" A", " B") else [7, ord(text[-1])]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="no single token distinguishes"):
        letter_tokens(encoder)


def test_an_empty_option_is_refused() -> None:
    encoder = TokenEncoder(make_tokenizer())
    question = ExamQuestion("q", "s", "무엇?", ("a", "b", " ", "d", "e"), 0)
    with pytest.raises(DataError, match="question q: an option has no text"):
        score_questions(make_text_model(), encoder, [question])


def test_all_orders_with_options_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one order only"):
        score_questions(make_text_model(), TokenEncoder(make_tokenizer()), questions(1), all_orders=True)


@pytest.mark.parametrize("with_options", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_never_a_score(tiny_model, with_options: bool, value: float) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer())
    with torch.no_grad():
        text_decoder(tiny_model).layers[1].mlp.up_proj.weight[0, 0] = value  # type: ignore[index, union-attr]
    with pytest.raises(NonFiniteError, match=r"^question q\d: the model's logits are NaN or infinite"):
        score_questions(tiny_model, encoder, questions(2), with_options=with_options)


def test_options_check_the_whole_vocabulary() -> None:
    """A NaN in a row of the head that is no letter and in no option: letters alone do not read it."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    score_questions(model, encoder, questions(2), with_options=False)
    with pytest.raises(NonFiniteError, match="question q"):
        score_questions(model, encoder, questions(2))
