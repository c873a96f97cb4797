"""The local engine: the same text for a seed, whatever runs beside it; greedy equals a plain loop."""

import random
from collections.abc import Sequence

import pytest
import torch

from conftest import make_text_model, make_tokenizer
from lorachain.inference import generate as generate_module
from lorachain.inference import prefix_groups as prefix_groups_module
from lorachain.inference.engines.base import Completion, EngineIdentity, Message, Sampling, TextRequest
from lorachain.inference.engines.local import LocalEngine
from lorachain.inference.prefix_cache import compute_prefix_cache
from lorachain.inference.prefix_groups import family_tree
from lorachain.prompts import Prompt, render
from lorachain.tokens import TokenEncoder

IDENTITY = EngineIdentity("local", "1", "tiny", None)
NEW_TOKENS = 24
SAMPLED = Sampling(NEW_TOKENS, temperature=1.0)


def requests_of(encoder: TokenEncoder) -> list[TextRequest]:
    """Two subjects with long worked examples, three questions each, four samples of each with its own options."""
    requests: list[TextRequest] = []
    for subject in ("간호", "치과"):
        for question in range(3):
            for sample in range(4):
                options = "".join(random.Random(sample).sample("ABCDE", 5))
                user = f"{subject} 예시 {subject * 8}\n문제 {question} {question * 'ㄱㄴ'}\n{options}"
                prompt = Prompt(user, "풀이:")
                requests.append(
                    TextRequest(render(prompt, encoder.turns), (Message("user", user),), seed=len(requests) + 1000)
                )
    return requests


def completed(
    engine: LocalEngine, requests: Sequence[TextRequest], sampling: Sampling, stops_at: str = "none"
) -> list[Completion]:
    completions: dict[int, Completion] = {}

    def on_completion(index: int, completion: Completion) -> None:
        assert index not in completions
        completions[index] = completion

    engine.complete(requests, sampling, stop=lambda text: stops_at in text, on_completion=on_completion)
    return [completions[i] for i in range(len(requests))]


@pytest.fixture(params=[False, True], ids=["plain", "chat"])
def encoder(request: pytest.FixtureRequest) -> TokenEncoder:
    return TokenEncoder(make_tokenizer(chat=request.param))


@pytest.mark.parametrize("sampling", [SAMPLED, Sampling(NEW_TOKENS)], ids=["sampled", "greedy"])
def test_a_text_does_not_depend_on_neighbours_order_or_memory(
    encoder: TokenEncoder, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, all together, in another order, with few slots, and with cached prefixes for few or for many."""
    model, requests = make_text_model(), requests_of(encoder)
    alone = [completed(LocalEngine(model, encoder, IDENTITY), [request], sampling)[0] for request in requests]
    assert len({completion.text for completion in alone}) > 3
    order = random.Random(0).sample(range(len(requests)), len(requests))
    for cache_bytes, token_budget, shared_by in ((None, 8192, 32), (1, 8192, 6), (300_000, 64, 6), (None, 200, 2)):
        monkeypatch.setattr(prefix_groups_module, "SHARED_BY", shared_by)
        engine = LocalEngine(model, encoder, IDENTITY, token_budget=token_budget, cache_bytes=cache_bytes)
        together = completed(engine, [requests[i] for i in order], sampling)
        assert together == [alone[i] for i in order]
    if sampling is SAMPLED:
        other = [TextRequest(r.text, r.messages, r.seed + 1) for r in requests]
        assert completed(LocalEngine(model, encoder, IDENTITY), other, sampling) != alone


def test_greedy_equals_a_loop_over_full_logits(encoder: TokenEncoder) -> None:
    model, requests = make_text_model(), requests_of(encoder)
    completions = completed(LocalEngine(model, encoder, IDENTITY), requests, Sampling(NEW_TOKENS))
    end_ids = generate_module.stop_ids(model, encoder)
    for request, completion in zip(requests, completions, strict=True):
        prompt = encoder.rendered_ids(request.text)
        ids = list(prompt)
        while len(ids) - len(prompt) < NEW_TOKENS:
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in end_ids:
                break
            ids.append(token)
        assert completion.text == encoder.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert completion.finish == ("stop" if len(ids) - len(prompt) < NEW_TOKENS else "length")


def test_completions_are_reported_as_they_finish(encoder: TokenEncoder) -> None:
    """An interruption keeps what is done."""
    model, requests = make_text_model(), requests_of(encoder)
    engine = LocalEngine(model, encoder, IDENTITY, cache_bytes=1)
    expected = completed(LocalEngine(model, encoder, IDENTITY), requests, SAMPLED)
    kept: dict[int, Completion] = {}

    def interrupt_after_five(index: int, completion: Completion) -> None:
        kept[index] = completion
        if len(kept) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.complete(requests, SAMPLED, stop=lambda text: False, on_completion=interrupt_after_five)
    assert len(kept) == 5
    assert all(expected[index] == completion for index, completion in kept.items())


def test_a_stop_ends_a_completion(encoder: TokenEncoder) -> None:
    model, requests = make_text_model(), requests_of(encoder)
    free = completed(LocalEngine(model, encoder, IDENTITY), requests, SAMPLED)
    number = max(range(len(free)), key=lambda i: len(free[i].text))
    character = free[number].text[1]
    stopped = completed(LocalEngine(model, encoder, IDENTITY), requests, SAMPLED, stops_at=character)
    assert stopped[number].finish == "stop"
    assert character in stopped[number].text
    assert stopped[number].tokens < free[number].tokens


def test_each_prefix_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = TokenEncoder(make_tokenizer()), make_text_model()
    prefixes: list[int] = []
    prefilled: list[int] = []
    prefill = generate_module._prefill

    def counted_prefix(model, ids):  # type: ignore[no-untyped-def]
        prefixes.append(len(ids))
        return compute_prefix_cache(model, ids)

    def counted_prefill(model, cache, prefix_cache, families):  # type: ignore[no-untyped-def]
        prefilled.extend(len(family_tree(family)) for family in families)
        return prefill(model, cache, prefix_cache, families)

    monkeypatch.setattr(generate_module, "compute_prefix_cache", counted_prefix)
    monkeypatch.setattr(generate_module, "_prefill", counted_prefill)
    monkeypatch.setattr(prefix_groups_module, "SHARED_BY", 12)
    requests = requests_of(encoder)
    completed(LocalEngine(model, encoder, IDENTITY), requests, SAMPLED)
    assert len(prefixes) == 2
    prompts = [encoder.rendered_ids(request.text) for request in requests]
    assert sum(prefixes) + sum(prefilled) < sum(map(len, prompts)) / 3


def test_no_requests(encoder: TokenEncoder) -> None:
    assert completed(LocalEngine(make_text_model(), encoder, IDENTITY), [], SAMPLED) == []
