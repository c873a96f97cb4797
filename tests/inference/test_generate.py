"""Batched generation equals a loop over full logits without a cache, whatever shares the batch."""

import pytest
import torch

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.inference import generate as generate_module
from lorachain.inference.generate import generate, generate_lines
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder

TEXTS = ["열", "감기는 바이러스로 생긴다", "aspirin", "당뇨병의 합병증은 무엇인가 " * 3, "가나다라 마바사", "x", "yz"]
LIMIT = 30
ENDS = {1, 5}


def argmax_loop(model, prompt: list[int], limit: int = LIMIT) -> list[int]:  # type: ignore[no-untyped-def]
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ENDS:
            break
        ids.append(token)
    return ids[len(prompt) :]


def prompts_of(encoder: TokenEncoder, common: str = "") -> list[list[int]]:
    return [encoder.prompt_ids(Prompt(common + text, "뜻:")) for text in TEXTS]


@pytest.mark.parametrize("common", ["", "예시 " * 12])
def test_equals_the_plain_loop(tiny_model, common: str) -> None:  # type: ignore[no-untyped-def]
    """Prompts on both sides of the window of 16, continuations that cross it, with and without a common prefix that is
    computed once, and with fewer places than prompts, so that they are refilled."""
    encoder = TokenEncoder(make_tokenizer())
    prompts = prompts_of(encoder, common)
    wanted = [argmax_loop(tiny_model, prompt) for prompt in prompts]
    assert len({tuple(ids) for ids in wanted}) > 3
    texts = [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in wanted]
    for budget in (1, 300, 100_000):
        heard: list[int] = []
        found = generate(
            tiny_model, encoder, prompts, stop=lambda text: False, max_new_tokens=LIMIT, token_budget=budget,
            on_progress=heard.append,
        )  # fmt: skip
        assert [generation.text for generation in found] == texts
        assert heard == list(range(1, len(prompts) + 1))
        for ids, item in zip(wanted, found, strict=True):
            assert item.ended == (len(ids) < LIMIT)
            assert item.tokens == min(len(ids) + 1, LIMIT)


def test_eager_attention_gives_the_same() -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder, "예시 " * 12)
    wanted = generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=8)
    model.set_attn_implementation("eager")
    assert generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=8) == wanted


def test_places_are_refilled_and_ended_sequences_cost_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder) * 3
    widths: list[int] = []
    real = generate_module._step
    monkeypatch.setattr(generate_module, "_step", lambda cache, last: widths.append(len(last)) or real(cache, last))
    monkeypatch.setattr(generate_module, "_MOST_SLOTS", 4)
    found = generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=LIMIT)
    # The prefill gives the first id; every other id is one place in one step, and no more.
    assert sum(widths) == sum(item.tokens - 1 for item in found)
    assert max(widths) == 4


def test_a_stop_ends_the_sequence() -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompt = prompts_of(encoder)[0]
    free = argmax_loop(model, prompt)
    fourth = encoder.tokenizer.decode(free[:4])
    (found,) = generate(model, encoder, [prompt], stop=lambda text: len(text) >= len(fourth), max_new_tokens=LIMIT)
    assert found.ended
    assert found.tokens <= 4 < len(free)
    assert encoder.tokenizer.decode(free).startswith(found.text)


def test_lines_end_at_the_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*_: object, stop, **__: object) -> list[generate_module.Generation]:  # type: ignore[no-untyped-def]
        assert stop(" 감기\n뜻")
        assert not stop(" 감기")
        return [generate_module.Generation(" 감기\n뜻: 열", 5, True)]

    monkeypatch.setattr(generate_module, "generate", answers)
    assert generate_lines(make_text_model(), TokenEncoder(make_tokenizer()), [[2, 3]], max_new_tokens=6) == [" 감기"]


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_draws_depend_on_the_seed_and_not_on_the_neighbours(budget: int) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_multimodal_model()
    prompts = [prompts_of(encoder)[1]] * 6

    def draw(seeds: list[int], budget: int) -> list[str]:
        found = generate(
            model, encoder, prompts[: len(seeds)], stop=lambda text: False, max_new_tokens=8, token_budget=budget,
            temperature=1.0, seeds=seeds,
        )  # fmt: skip
        return [item.text for item in found]

    alone = [draw([seed], 1)[0] for seed in range(6)]
    assert len(set(alone)) > 3
    assert draw(list(range(6)), budget) == alone


@pytest.mark.parametrize("chat", [False, True])
def test_special_tokens_never_reach_the_answer(chat: bool) -> None:
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    found = generate_lines(make_text_model(), encoder, prompts_of(encoder), max_new_tokens=20)
    assert len(found) == len(TEXTS)
    assert not any(token in answer for answer in found for token in ("<eos>", "<end_of_turn>", "<pad>"))


def test_nothing_asked_is_nothing_answered() -> None:
    encoder = TokenEncoder(make_tokenizer())
    assert generate(make_text_model(), encoder, [], stop=lambda text: False, max_new_tokens=3) == []
