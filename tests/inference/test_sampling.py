"""Draws follow softmax, and depend on their seed and step alone."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lorachain.inference import sampling
from lorachain.inference.sampling import gumbel_noise, sample_tokens

DRAWS = 20_000


def logits_as(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A hidden state and head weights with these logits."""
    return torch.ones(1, 1), logits[:, None].clone()


def counts(logits: Tensor, temperature: float, *, by_step: bool) -> np.ndarray:
    """How often each token is drawn, by 20,000 seeds at one step or by one seed at 20,000 steps."""
    hidden, weight = logits_as(logits)
    numbers, constant = range(DRAWS), [7] * DRAWS
    seeds, steps = (constant, numbers) if by_step else (numbers, constant)
    drawn = sample_tokens(hidden.expand(DRAWS, -1), weight, temperature, seeds, steps)
    return np.bincount(drawn.numpy(), minlength=len(logits))


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("size", [37, 4])
def test_draws_follow_softmax(monkeypatch: pytest.MonkeyPatch, size: int, temperature: float, by_step: bool) -> None:
    """With several blocks, the last one not full, and with one block. The draws are fixed, so the test is too."""
    monkeypatch.setattr(sampling, "BLOCK", 10)
    logits = torch.randn(size, generator=torch.Generator().manual_seed(3)) * 1.5
    observed = counts(logits, temperature, by_step=by_step)
    expected = torch.softmax(logits.double() / temperature, 0).numpy() * DRAWS
    assert stats.chisquare(observed, expected).pvalue > 0.005


def test_a_wrong_temperature_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 10)
    logits = torch.linspace(0, 2, 9)
    expected = torch.softmax(logits.double(), 0).numpy() * DRAWS
    assert stats.chisquare(counts(logits, 1.1, by_step=False), expected).pvalue < 1e-6


def test_noise_is_gumbel_and_without_repetition() -> None:
    """Seeds and steps that differ by one have streams of their own."""
    keys = sampling._keys([0, 0, 1, 1], [0, 1, 0, 1])
    noise = gumbel_noise(keys, torch.arange(50_000).expand(4, -1))
    assert stats.kstest(noise.flatten().numpy()[::7], "gumbel_r").pvalue > 0.005
    assert len(np.unique(noise.numpy())) > 190_000
    correlation = np.corrcoef(noise.numpy()) - np.eye(4)
    assert abs(correlation).max() < 0.02


def test_the_hash_is_splitmix64() -> None:
    """The first outputs for seed 0 of the published generator."""
    golden = sampling._GOLDEN
    states = [sampling._signed(golden * n & sampling._MASK) for n in (1, 2, 3)]
    outputs = sampling._mixed(torch.tensor(states)).tolist()
    assert [number % 2**64 for number in outputs] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert sampling._mixed_int(0) == 0xE220A8397B1DCDAF


def test_a_draw_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 8, generator=generator), torch.randn(20_000, 8, generator=generator)
    seeds, steps = [2**48 + 5 * i for i in range(9)], [i % 3 for i in range(9)]
    together = sample_tokens(hidden, weight, 1.0, seeds, steps).tolist()
    alone = [int(sample_tokens(hidden[i : i + 1], weight, 1.0, [seeds[i]], [steps[i]])) for i in reversed(range(9))]
    assert together == alone[::-1]
    assert max(together) > 8192


def test_bf16_weights_are_drawn_from_as_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that bf16 represents exactly: what follows them does not round again."""
    monkeypatch.setattr(sampling, "BLOCK", 4)
    logits = torch.randn(64, generator=torch.Generator().manual_seed(0)).bfloat16()
    hidden, weight = logits_as(logits)
    draws = [
        sample_tokens(hidden.to(kind).expand(2000, -1), weight.to(kind), 0.7, range(2000), [1] * 2000)
        for kind in (torch.bfloat16, torch.float32)
    ]
    assert len(set(draws[0].tolist())) > 20
    assert torch.equal(*draws)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_marked(value: float) -> None:
    weight = torch.zeros(20_000, 2)
    weight[15_000, 1] = value
    hidden = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert sample_tokens(hidden, weight, 1.0, [0, 1], [0, 0]).tolist() == [-1, -1]
    weight[15_000, 1] = 3.0
    assert min(sample_tokens(hidden, weight, 1.0, [0, 1], [0, 0]).tolist()) >= 0
