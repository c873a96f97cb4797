"""Log-probabilities and greedy tokens in blocks equal those of full logits."""

import pytest
import torch

from lorachain.errors import NonFiniteError
from lorachain.inference import logprobs


@pytest.mark.parametrize(("rows", "columns"), [(256, 8192), (3, 7), (1, 1000)])
def test_equals_full_log_softmax(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(logprobs, "ROW_BLOCK", rows)
    monkeypatch.setattr(logprobs, "VOCABULARY_BLOCK", columns)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(11, 8), torch.randn(101, 8), torch.randint(101, (11,))
    expected = (hidden @ weight.T).log_softmax(-1)[torch.arange(11), targets]
    torch.testing.assert_close(logprobs.token_logprobs(hidden, weight, targets), expected)


def test_statistics_are_float32_where_weights_are_bf16() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16).bfloat16(), torch.randn(3000, 16).mul(0.02).bfloat16()
    targets = torch.randint(3000, (5,))
    result = logprobs.token_logprobs(hidden, weight, targets)
    expected = (hidden.double() @ weight.double().T).log_softmax(-1)[torch.arange(5), targets]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, atol=2e-3, rtol=0)  # a bf16 sum over 3,000 is off by far more


def test_no_rows_give_no_logprobs() -> None:
    assert logprobs.token_logprobs(torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
    )


@pytest.mark.parametrize("block", [1, 7, 8192])
def test_greedy_tokens_are_the_first_highest_logits(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(logprobs, "VOCABULARY_BLOCK", block)
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 8), torch.randn(101, 8)
    weight[50:] = weight[:51].clone()  # every logit twice
    assert logprobs.greedy_tokens(hidden, weight).tolist() == (hidden @ weight.T).argmax(-1).tolist()


@pytest.mark.parametrize("block", [1, 7, 8192])
@pytest.mark.parametrize("token", [0, 20, 100])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_gives_no_greedy_token(
    monkeypatch: pytest.MonkeyPatch, block: int, token: int, value: float
) -> None:
    monkeypatch.setattr(logprobs, "VOCABULARY_BLOCK", block)
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 8).abs(), torch.randn(101, 8)
    weight[token] = value
    assert logprobs.greedy_tokens(hidden, weight).tolist() == [-1, -1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    logprobs.require_finite([0.0, -3.5], "question 1")
    with pytest.raises(NonFiniteError, match=r"^question 1: the model's logits are NaN or infinite"):
        logprobs.require_finite([0.0, value], "question 1")
