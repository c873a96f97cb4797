"""Batched generation equals one at a time, and both equal a loop over full logits without a cache."""

import pytest
import torch

from conftest import make_text_model, make_tokenizer
from lorachain.exam.generation import generate_lines, newline_ids
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder

TEXTS = ["열", "감기는 바이러스로 생긴다", "aspirin", "당뇨병의 합병증은 무엇인가 " * 3, "가나다라 마바사"]
LIMIT = 30


def argmax_loop(model, prompt: list[int], stops: set[int]) -> list[int]:  # type: ignore[no-untyped-def]
    ids = list(prompt)
    for _ in range(LIMIT):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_equals_the_plain_loop_alone_and_in_batches(tiny_model) -> None:  # type: ignore[no-untyped-def]
    """Prompts on both sides of the window of 16, and continuations that cross it."""
    encoder = TokenEncoder(make_tokenizer())
    prompts = [encoder.prompt_ids(Prompt(text, "뜻:")) for text in TEXTS]
    assert min(map(len, prompts)) < 16 < max(map(len, prompts)) - LIMIT
    stops = {encoder.end_id, encoder.eos_id, *newline_ids(encoder)}
    wanted = [
        encoder.tokenizer.decode(argmax_loop(tiny_model, prompt, stops), skip_special_tokens=True) for prompt in prompts
    ]
    assert len(set(wanted)) > 1
    heard: list[int] = []
    for budget in (1, 10_000):
        found = generate_lines(
            tiny_model, encoder, prompts, max_new_tokens=LIMIT, token_budget=budget, on_progress=heard.append
        )
        assert found == wanted
    assert heard == [1, 2, 3, 4, 5, 5]


def test_stops_at_a_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = [encoder.prompt_ids(Prompt(text, "뜻:")) for text in TEXTS[:2]]
    free = argmax_loop(model, prompts[0], set())
    newline = next(token for token in free if token != free[0])
    monkeypatch.setattr("lorachain.exam.generation.newline_ids", lambda encoder: [newline])
    found = generate_lines(model, encoder, prompts, max_new_tokens=LIMIT)
    stops = {encoder.end_id, encoder.eos_id, newline}
    assert found == [encoder.tokenizer.decode(argmax_loop(model, p, stops), skip_special_tokens=True) for p in prompts]
    assert found[0] == encoder.tokenizer.decode(free[: free.index(newline)])


def test_newline_ids_of_a_byte_fallback_vocabulary() -> None:
    encoder = TokenEncoder(make_tokenizer())
    assert newline_ids(encoder) == encoder.text_ids("\n")


@pytest.mark.parametrize("chat", [False, True])
def test_special_tokens_never_reach_the_answer(chat: bool) -> None:
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    found = generate_lines(
        make_text_model(), encoder, [encoder.prompt_ids(Prompt(text, "뜻:")) for text in TEXTS], max_new_tokens=20
    )
    assert len(found) == len(TEXTS)
    assert not any(token in answer for answer in found for token in ("<eos>", "<end_of_turn>", "<pad>"))
