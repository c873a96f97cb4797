import pytest
import torch

from lorachain.inference import logprobs


@pytest.mark.parametrize(("rows", "columns"), [(256, 8192), (3, 7), (1, 1000)])
def test_equals_full_log_softmax(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(logprobs, "ROWS", rows)
    monkeypatch.setattr(logprobs, "COLUMNS", columns)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(11, 8), torch.randn(101, 8), torch.randint(101, (11,))
    wanted = (hidden @ weight.T).log_softmax(-1)[torch.arange(11), targets]
    torch.testing.assert_close(logprobs.token_logprobs(hidden, weight, targets), wanted)


def test_statistics_are_float32_where_weights_are_bf16() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16).bfloat16(), torch.randn(3000, 16).mul(0.02).bfloat16()
    targets = torch.randint(3000, (5,))
    found = logprobs.token_logprobs(hidden, weight, targets)
    wanted = (hidden.double() @ weight.double().T).log_softmax(-1)[torch.arange(5), targets]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=0)  # a bf16 sum over 3,000 is off by far more


def test_no_rows_give_no_logprobs() -> None:
    assert logprobs.token_logprobs(torch.zeros(0, 4), torch.zeros(9, 4), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
    )
