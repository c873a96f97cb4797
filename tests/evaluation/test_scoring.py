"""One forward for letters and options equals the plain loop over full logits."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.errors import DataError, ModelError
from lorachain.evaluation.scoring import letter_tokens, score_questions
from lorachain.prompts import answer_prompt
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder


def questions(count: int = 6, seed: int = 0) -> list[ExamQuestion]:
    rng = random.Random(seed)
    words = ["열", "기침", "aspirin", "간", "심장", "B12", "두통", "가", "x"]

    def phrase(least: int, most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(least, most)))

    return [
        ExamQuestion(f"q{i}", "doctor", phrase(1, 12), tuple(phrase(1, 4) for _ in range(5)), i % 5)  # type: ignore[arg-type]
        for i in range(count)
    ]


def plain_loop(model, encoder, question):  # type: ignore[no-untyped-def]
    """Full logits, one sequence at a time, no mask of ours: what the scores must equal."""
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
def test_equals_the_plain_loop(tiny_model, chat: bool) -> None:
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    asked = questions()
    assert min(len(encoder.prompt_ids(answer_prompt(q))) for q in asked) > 16  # beyond the sliding window
    for question, score in zip(asked, score_questions(tiny_model, encoder, asked), strict=True):
        five, sums = plain_loop(tiny_model, encoder, question)
        assert score.letter_logprobs == pytest.approx(five, abs=1e-4)
        assert score.option_logprobs == pytest.approx(sums, rel=1e-5, abs=1e-3)
        assert score.option_tokens == tuple(len(encoder.text_ids(f" {text}")) for text in question.options)
        assert score.option_chars == tuple(map(len, question.options))
        assert (score.id, score.gold) == (question.id, question.answer)
        assert score.chosen_letter == five.index(max(five))
        assert score.chosen_option == sums.index(max(sums))


def test_eager_attention_gives_the_same() -> None:
    encoder = TokenEncoder(make_tokenizer())
    model = make_text_model()
    wanted = score_questions(model, encoder, questions(2))
    model.set_attn_implementation("eager")
    for a, b in zip(wanted, score_questions(model, encoder, questions(2)), strict=True):
        assert a.letter_logprobs == pytest.approx(b.letter_logprobs, abs=1e-4)
        assert a.option_logprobs == pytest.approx(b.option_logprobs, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("budget", [1, 400, 100_000])
def test_neighbours_order_and_batch_size_do_not_matter(budget: int) -> None:
    model, encoder, asked = make_text_model(), TokenEncoder(make_tokenizer()), questions(7)
    alone = {q.id: score_questions(model, encoder, [q])[0] for q in asked}
    heard: list[int] = []
    order = asked[::-1]
    together = score_questions(model, encoder, order, token_budget=budget, on_progress=heard.append)
    assert [score.id for score in together] == [q.id for q in order]
    assert heard == sorted(heard)
    assert heard[-1] == len(asked)
    for score in together:
        assert score.letter_logprobs == pytest.approx(alone[score.id].letter_logprobs, abs=1e-4)
        assert score.option_logprobs == pytest.approx(alone[score.id].option_logprobs, rel=1e-5, abs=1e-3)
        assert score.chosen_letter == alone[score.id].chosen_letter
        assert score.chosen_option == alone[score.id].chosen_option


def test_letters_alone_are_the_same_letters() -> None:
    model, encoder = make_multimodal_model(), TokenEncoder(make_tokenizer())
    both = score_questions(model, encoder, questions(3))
    letters = score_questions(model, encoder, questions(3), with_options=False)
    for a, b in zip(both, letters, strict=True):
        assert a.letter_logprobs == pytest.approx(b.letter_logprobs, abs=1e-4)
        assert b.option_logprobs is None
        with pytest.raises(ValueError, match="without options"):
            _ = b.chosen_option


def test_single_token_options_need_no_branch() -> None:
    """Every option one byte long: with the tiny tokenizer " x" is two ids, and the continuation is the space alone."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    question = ExamQuestion("q", "s", "무엇?", ("a", "b", "c", "d", "e"), 0)
    five, sums = plain_loop(model, encoder, question)
    (score,) = score_questions(model, encoder, [question])
    assert score.letter_logprobs == pytest.approx(five, abs=1e-4)
    assert score.option_logprobs == pytest.approx(sums, abs=1e-3)


def test_training_mode_is_put_back() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    score_questions(model, encoder, questions(1))
    assert [module.training for module in model.modules()] == before


class LargestTensor(TorchDispatchMode):
    """Notes the widest last dimension and the most elements of any tensor computed."""

    def __init__(self) -> None:
        super().__init__()
        self.widest = self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            # Views of the weights are not computed.
            if isinstance(tensor, torch.Tensor) and tensor.dim() and not tensor._is_view():
                self.widest = max(self.widest, tensor.shape[-1])
                self.elements = max(self.elements, tensor.numel())
        return result


def test_letters_never_build_a_row_of_the_vocabulary() -> None:
    model, encoder = make_text_model(vocab_size=5_003), TokenEncoder(make_tokenizer())
    with LargestTensor() as seen:
        score_questions(model, encoder, questions(3), with_options=False)
    assert 0 < seen.widest < 5_003


def test_options_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorachain.inference.logprobs.COLUMNS", 512)
    monkeypatch.setattr("lorachain.inference.logprobs.ROWS", 16)
    model, encoder, asked = make_text_model(vocab_size=5_003), TokenEncoder(make_tokenizer()), questions(3)
    with LargestTensor() as seen:
        scores = score_questions(model, encoder, asked)
    assert seen.widest < 5_003
    _, sums = plain_loop(model, encoder, asked[0])
    assert scores[0].option_logprobs == pytest.approx(sums, rel=1e-5, abs=1e-3)


def test_letter_tokens_share_a_split_space() -> None:
    encoder = TokenEncoder(make_tokenizer())
    letters = letter_tokens(encoder)
    assert letters.shared == encoder.text_ids(" ")
    assert letters.ids == [encoder.text_ids(letter)[0] for letter in "ABCDE"]


def test_letters_that_no_token_tells_apart_are_refused() -> None:
    encoder = TokenEncoder(make_tokenizer())
    encoder.text_ids = lambda text: [7, 8] if text in (" A", " B") else [7, ord(text[-1])]  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="no single token tells apart"):
        letter_tokens(encoder)


def test_an_empty_option_is_refused() -> None:
    encoder = TokenEncoder(make_tokenizer())
    question = ExamQuestion("q", "s", "무엇?", ("a", "b", " ", "d", "e"), 0)
    with pytest.raises(DataError, match="question q: an option has no text"):
        score_questions(make_text_model(), encoder, [question])
