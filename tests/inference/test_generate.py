"""Batched generation equals a loop over full logits without a KV cache, whatever else is in the batch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import make_multimodal_model, make_text_model, make_tokenizer, text_config
from lorachain.errors import NonFiniteError
from lorachain.inference import generate as generate_module
from lorachain.inference.generate import generate, generate_lines
from lorachain.inference.kv_cache import KvCache, sequence_bytes
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder
from lorachain.weights.attention import use_blockwise_attention
from lorachain.weights.attention_choice import takes_packed_rows
from lorachain.weights.load import head_weight, text_decoder

TEXTS = ["열", "감기는 바이러스로 생긴다", "aspirin", "당뇨병의 합병증은 무엇인가 " * 3, "가나다라 마바사", "x", "yz"]
LIMIT = 30
END_IDS = {1, 5}
GROUPED: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
"""Two heads for queries share one for keys and values, of which there are two."""


def argmax_loop(model, prompt: list[int], limit: int = LIMIT) -> list[int]:  # type: ignore[no-untyped-def]
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in END_IDS:
            break
        ids.append(token)
    return ids[len(prompt) :]


def prompts_of(encoder: TokenEncoder, common: str = "") -> list[list[int]]:
    return [encoder.prompt_ids(Prompt(common + text, "뜻:")) for text in TEXTS]


@pytest.mark.parametrize("common", ["", "예시 " * 12])
@pytest.mark.parametrize("kind", ["multimodal", "packed"])
def test_generate_equals_the_plain_loop(kind: str, common: str) -> None:
    """With prompts shorter and longer than the window of 16, continuations that cross it, a cached common prefix or
    none, and fewer slots than prompts, so that slots are refilled; `packed` has two heads for keys and values, and the
    attention that a model is loaded with, which puts prompts into one row."""
    encoder = TokenEncoder(make_tokenizer())
    prompts = prompts_of(encoder, common)
    model = make_multimodal_model() if kind == "multimodal" else make_text_model(**GROUPED)
    expected = [argmax_loop(model, prompt) for prompt in prompts]
    if kind == "packed":
        use_blockwise_attention(model)
    assert takes_packed_rows(text_decoder(model)) == (kind == "packed")
    assert len({tuple(ids) for ids in expected}) > 3
    texts = [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    slot = sequence_bytes(text_decoder(model), max(map(len, prompts)) + LIMIT)
    for budget, cache_bytes in ((1, 1), (300, 3 * slot), (100_000, None)):
        progress: list[int] = []
        generations = generate(
            model, encoder, prompts, stop=lambda text: False, max_new_tokens=LIMIT, token_budget=budget,
            cache_bytes=cache_bytes, on_progress=progress.append,
        )  # fmt: skip
        assert [generation.text for generation in generations] == texts
        assert progress == list(range(1, len(prompts) + 1))
        for ids, generation in zip(expected, generations, strict=True):
            assert generation.ended == (len(ids) < LIMIT)
            assert generation.tokens == min(len(ids) + 1, LIMIT)


def test_eager_attention_gives_the_same() -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder, "예시 " * 12)
    expected = generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=8)
    model.set_attn_implementation("eager")
    assert generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=8) == expected


def test_slots_are_refilled_and_finished_sequences_cost_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder) * 3
    widths: list[int] = []
    decode_step = generate_module._decode_step

    def counted(cache: KvCache, last_ids: list[int]) -> torch.Tensor:
        widths.append(len(last_ids))
        return decode_step(cache, last_ids)

    monkeypatch.setattr(generate_module, "_decode_step", counted)
    monkeypatch.setattr(generate_module, "_MAX_SLOTS", 4)
    generations = generate(model, encoder, prompts, stop=lambda text: False, max_new_tokens=LIMIT)
    # The prefill gives the first id of a sequence; each other id takes one slot in one step.
    assert sum(widths) == sum(generation.tokens - 1 for generation in generations)
    assert max(widths) == 4


def test_memory_is_what_was_counted_and_windows_bound_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four layers keep their window of 16 ids, however long the sequences become."""
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder)
    caches: list[KvCache] = []
    slots: list[int] = []

    def decoded(cache: KvCache, last_ids: list[int]) -> torch.Tensor:
        caches[:] = [cache]
        slots.append(len(last_ids))
        return decode_step(cache, last_ids)

    decode_step = generate_module._decode_step
    monkeypatch.setattr(generate_module, "_decode_step", decoded)
    decoder, longest = text_decoder(model), max(map(len, prompts)) + 200
    per_id = 2 * 16 * 4  # keys and values, one head of width 16, float32
    assert sequence_bytes(decoder, longest) == per_id * (3 * 16 + longest + 64)
    generate(
        model, encoder, prompts, stop=lambda text: False, max_new_tokens=200,
        cache_bytes=3 * sequence_bytes(decoder, longest),
    )  # fmt: skip
    assert max(slots) == 3
    held = sum(buffer.nbytes for pair in caches[0].layers for buffer in pair)
    assert held <= 3 * sequence_bytes(decoder, longest)
    assert [key.shape[2] for key, _ in caches[0].layers][:3] == [16] * 3


def test_keys_and_values_have_the_type_of_what_computes_and_all_their_heads() -> None:
    """Not that of quantized weights, which may come first."""
    parameters = [torch.zeros(1, dtype=torch.int8), torch.zeros(1, dtype=torch.bfloat16)]
    decoder: Any = SimpleNamespace(config=text_config(**GROUPED), parameters=lambda: iter(parameters))
    # Keys and values, two heads of width 16, two bytes; a window in three layers, ten ids and what is reserved in one.
    assert sequence_bytes(decoder, 10) == 2 * 2 * 16 * 2 * (3 * 16 + 10 + 64)


def test_a_stop_ends_the_sequence() -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompt = prompts_of(encoder)[0]
    free = argmax_loop(model, prompt)
    fourth = encoder.tokenizer.decode(free[:4])
    (generation,) = generate(model, encoder, [prompt], stop=lambda text: len(text) >= len(fourth), max_new_tokens=LIMIT)
    assert generation.ended
    assert generation.tokens <= 4 < len(free)
    assert encoder.tokenizer.decode(free).startswith(generation.text)


def test_lines_end_at_the_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*_: object, stop, **__: object) -> list[generate_module.Generation]:  # type: ignore[no-untyped-def]
        assert stop(" 감기\n뜻")
        assert not stop(" 감기")
        return [generate_module.Generation(" 감기\n뜻: 열", 5, True)]

    monkeypatch.setattr(generate_module, "generate", answers)
    assert generate_lines(make_text_model(), TokenEncoder(make_tokenizer()), [[2, 3]], max_new_tokens=6) == [" 감기"]


@pytest.mark.parametrize("budget", [1, 300, 100_000])
def test_a_draw_depends_on_its_seed_and_not_on_the_batch(budget: int) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_multimodal_model()
    prompts = [prompts_of(encoder)[1]] * 6

    def draw(seeds: list[int], budget: int) -> list[str]:
        generations = generate(
            model, encoder, prompts[: len(seeds)], stop=lambda text: False, max_new_tokens=8, token_budget=budget,
            cache_bytes=50_000 * budget, temperature=1.0, seeds=seeds,
        )  # fmt: skip
        return [generation.text for generation in generations]

    alone = [draw([seed], 1)[0] for seed in range(6)]
    assert len(set(alone)) > 3
    assert draw(list(range(6)), budget) == alone


@pytest.mark.parametrize("chat", [False, True])
def test_answers_hold_no_special_tokens(chat: bool) -> None:
    encoder = TokenEncoder(make_tokenizer(chat=chat))
    answers = generate_lines(make_text_model(), encoder, prompts_of(encoder), max_new_tokens=20)
    assert len(answers) == len(TEXTS)
    assert not any(token in answer for answer in answers for token in ("<eos>", "<end_of_turn>", "<pad>"))


def test_no_prompts_give_no_generations() -> None:
    encoder = TokenEncoder(make_tokenizer())
    assert generate(make_text_model(), encoder, [], stop=lambda text: False, max_new_tokens=3) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(temperature: float, value: float) -> None:
    """One vocabulary row, so that the highest logit of the other rows is an ordinary number."""
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prompts = prompts_of(encoder)

    def run() -> list[generate_module.Generation]:
        return generate(
            model, encoder, prompts, stop=lambda text: False, max_new_tokens=3, temperature=temperature,
            seeds=range(len(prompts)),
        )  # fmt: skip

    assert len(run()) == len(prompts)
    with torch.no_grad():
        head_weight(model)[380] = value
    with pytest.raises(NonFiniteError, match=r"prompt \d, generated token 1: the model's logits are NaN or infinite"):
        run()
