"""KL from the base: the blockwise sums equal those over full logits, on both classes of model."""

import pytest
import torch

from conftest import make_text_model, make_tokenizer
from lorachain.errors import NonFiniteError
from lorachain.evaluation import divergence
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight


def test_equals_kl_over_full_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "VOCABULARY_BLOCK", 7)
    monkeypatch.setattr(divergence, "ROW_BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(9, 6, generator=generator) * 3 for _ in range(2))
    weight = torch.randn(31, 6, generator=generator)
    p, q = ((hidden @ weight.T).double().log_softmax(-1) for hidden in (before, after))
    expected = (p.exp() * (p - q)).sum(-1)
    assert torch.allclose(divergence.kl(before, after, weight).double(), expected, rtol=1e-4, atol=1e-5)
    assert divergence.kl(before, before, weight).abs().max() < 1e-6


@pytest.mark.parametrize("budget", [1, 8192])
def test_hidden_states_give_the_models_own_distributions(tiny_model, budget: int) -> None:  # type: ignore[no-untyped-def]
    """The base's hidden states and the tuned model's head are enough."""
    encoder = TokenEncoder(make_tokenizer())
    prompts = [
        [encoder.bos_id, *encoder.text_ids(text)] for text in ("용어: 감기", "환자는 열이 나고 기침을 한다", "A")
    ]
    base = divergence.prompt_hidden_states(tiny_model, prompts, token_budget=budget)
    full_before = [logits(tiny_model, prompt) for prompt in prompts]
    with torch.no_grad():
        for name, parameter in tiny_model.named_parameters():
            if "q_proj" in name and "vision" not in name:
                parameter.add_(0.05)
    sums = divergence.prompt_divergence(tiny_model, prompts, base, token_budget=budget)
    for before, prompt, total in zip(full_before, prompts, sums, strict=True):
        after = logits(tiny_model, prompt)
        expected = (before.exp() * (before - after)).sum(-1)[-divergence.LAST_TOKENS :].sum()
        assert total == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
        assert total > 0


def test_logits_that_are_not_finite_are_no_divergence() -> None:
    model = make_text_model()
    prompts = [[2, 10, 11]]
    base = divergence.prompt_hidden_states(model, prompts, token_budget=100)
    with torch.no_grad():
        head_weight(model)[380] = float("nan")
    with pytest.raises(NonFiniteError, match="KL divergence"):
        divergence.prompt_divergence(model, prompts, base, token_budget=100)


def logits(model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits[0].double().log_softmax(-1)
    return result
