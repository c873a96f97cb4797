"""What does not fit in the device's memory is computed in smaller groups. The shortage is injected."""

import logging
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import TEST_DEVICE, make_text_model, make_tokenizer
from lorachain.errors import DeviceError
from lorachain.evaluation import divergence, perplexity, scoring
from lorachain.inference import batching, generate
from lorachain.inference.batching import forward_groups, map_in_groups
from lorachain.inference.prefix_cache import KeyValues, compute_prefix_cache
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder, TokenRow

QUESTIONS = [
    ExamQuestion(
        id=str(number), exam="e", subject="s", question="문제 " + "가" * number, options=("a", "bb", "c", "d", "e"),
        answer=0,
    )
    for number in range(6)
]  # fmt: skip


def fits(monkeypatch: pytest.MonkeyPatch, module: Any, tokens: int) -> list[int]:
    """A device on which forward passes of more than `tokens` tokens do not fit; the tokens of those that did."""
    sizes: list[int] = []
    forward = module.hidden_states

    def limited(model: Any, trees: Any, *rest: Any) -> Tensor:
        size = sum(map(len, trees))
        if size > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(size)
        result: Tensor = forward(model, trees, *rest)
        return result

    monkeypatch.setattr(module, "hidden_states", limited)
    return sizes


def test_a_group_that_does_not_fit_is_halved_and_each_sequence_is_run_once(caplog: pytest.LogCaptureFixture) -> None:
    model, lengths = make_text_model(), [5, 100, 1, 30, 1, 7, 100]
    ran: list[list[int]] = []

    def run(group: list[int]) -> list[str]:
        if sum(lengths[i] for i in group) > 110:
            raise torch.OutOfMemoryError("CUDA out of memory")
        ran.append(group)
        return [f"result {i}" for i in group]

    with caplog.at_level(logging.WARNING):
        results = map_in_groups(model, lengths, 8192, run)
    assert results == [f"result {i}" for i in range(7)]
    assert sorted(i for group in ran for i in group) == list(range(7))
    assert [sum(lengths[i] for i in group) for group in ran] == [100, 100, 43, 1]  # with padding
    assert [record.message for record in caplog.records] == [
        f"out of memory on {TEST_DEVICE}: at most 122 tokens are computed at a time from here on"
    ]


def test_without_a_shortage_the_groups_are_those_of_forward_groups() -> None:
    model, lengths = make_text_model(), [5, 600, 1, 700, 1, 7, 100]
    ran: list[list[int]] = []

    def run(group: list[int]) -> list[int]:
        ran.append(group)
        return group

    progress: list[int] = []
    assert map_in_groups(model, lengths, 8192, run, on_progress=progress.append) == list(range(7))
    assert ran == forward_groups(model, lengths, 8192)
    assert progress == list(accumulate(map(len, ran)))
    assert map_in_groups(model, [], 8192, run) == []


def test_one_sequence_that_does_not_fit_is_an_error_and_others_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(group: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(group: list[int]) -> list[int]:
        raise RuntimeError("shapes")

    with pytest.raises(DeviceError, match=f"out of memory on {TEST_DEVICE}: one sequence of 100 tokens does not fit"):
        map_in_groups(make_text_model(), [100, 5], 8192, exhausted)
    with pytest.raises(RuntimeError, match="shapes"):
        map_in_groups(make_text_model(), [100, 5], 8192, broken)
    monkeypatch.setattr(batching, "is_sharded", lambda model: True)
    with pytest.raises(torch.OutOfMemoryError):
        map_in_groups(make_text_model(), [100, 5], 8192, exhausted)


@pytest.mark.parametrize("part", ["scoring", "perplexity", "divergence"])
def test_scores_are_those_of_a_device_that_is_large_enough(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    rows = [TokenRow([2, *range(6, 20 + number)], 1) for number in range(5)]
    measures: dict[str, tuple[Any, Callable[[], Any]]] = {
        "scoring": (
            scoring,
            lambda: [score.option_logprobs for score in scoring.score_questions(model, encoder, QUESTIONS)],
        ),
        "perplexity": (perplexity, lambda: perplexity.perplexity(model, rows).row_sums),
        "divergence": (
            divergence,
            lambda: [
                states.tolist()
                for states in divergence.prompt_hidden_states(model, [row.ids for row in rows], token_budget=8192)
            ],
        ),
    }
    module, measure = measures[part]
    with monkeypatch.context() as large:
        whole = fits(large, module, 10**9)
        expected = measure()
    parts = fits(monkeypatch, module, max(whole) - 1)
    result = measure()
    assert len(parts) > len(whole)
    assert sum(parts) == sum(whole)
    torch.testing.assert_close(torch.tensor(result[0]), torch.tensor(expected[0]), rtol=1e-4, atol=1e-5)
    assert len(result) == len(expected)


def test_prefixes_keep_what_is_attended_to_and_nothing_where_nothing_is_generated() -> None:
    """Forty ids: the full layer keeps all, a sliding layer (window 16) the last 15, each in memory of its own."""
    model = make_text_model()
    with torch.no_grad():
        cache = compute_prefix_cache(model, [2, *range(6, 45)])
    assert cache is not None
    assert [key.shape[2] for key, _ in cache.layers] == [15, 15, 15, 40]
    for pair in cache.layers:
        assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize for tensor in pair)
    key = torch.zeros(3, 1, 5, 16, device=TEST_DEVICE)
    for keep, expected in ((True, 1), (False, 0)):
        key_values = KeyValues(cache, keep=keep)
        assert key_values.update(key, key, 0)[0].shape[2] == 15 + 5
        assert len(key_values.layers) == expected


def generated(model: Any, **options: Any) -> list[str]:
    encoder = TokenEncoder(make_tokenizer())
    prompts = [[2, *range(6, 12 + number)] for number in range(5)]
    finished: list[int] = []
    generations = generate.generate(
        model, encoder, prompts, stop=lambda text: False, max_new_tokens=12, on_progress=finished.append, **options
    )
    assert finished == [1, 2, 3, 4, 5]
    return [generation.text for generation in generations]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seeds": range(5)}])
def test_prompts_that_do_not_fit_at_a_time_are_generated_half_as_many_at_a_time(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model, step, sizes = make_text_model(), generate._decode_step, list[int]()
    expected = generated(model, **options)

    def limited(cache: Any, last_ids: list[int]) -> Tensor:
        if len(last_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(last_ids))
        return step(cache, last_ids)

    monkeypatch.setattr(generate, "_decode_step", limited)
    assert generated(model, **options) == expected
    assert max(sizes) == 2

    def exhausted(cache: Any, last_ids: list[int]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generate, "_decode_step", exhausted)
    with pytest.raises(DeviceError, match=f"out of memory on {TEST_DEVICE}: one sequence does not fit"):
        generated(model, **options)
