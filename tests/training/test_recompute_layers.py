"""Norms and gated MLPs that keep less: the same bits forward, the same gradients, fewer bytes."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from conftest import make_text_model
from lorachain.training.activations import recompute_activations
from lorachain.training.recompute_layers import gated_down, rms_norm, use_recompute_layers
from lorachain.weights.lora import PeftModel, add_new_lora

TARGETS = ["q_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(model: PreTrainedModel, targets: list[str] = TARGETS, dropout: float = 0.0) -> PeftModel:
    """A LoRA whose B is not zero, in the base's type."""
    adapted = add_new_lora(
        model, base_path="b", rank=2, alpha=4, dropout=dropout, use_rslora=False, target_modules=targets, seed=0
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
            if parameter.requires_grad:
                parameter.data = parameter.data.to(model.dtype)
    return adapted


def gradients(model: PeftModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of the mean of their squares."""
    ids = torch.randint(6, 380, (2, 37), generator=torch.Generator().manual_seed(2))
    logits = model(input_ids=ids).logits
    logits.float().square().mean().backward()
    result = {n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [TARGETS, ["down_proj"], ["q_proj"]], ids=lambda t: "+".join(t))
def test_logits_have_the_same_bits_and_gradients_agree(dtype: torch.dtype, targets: list[str]) -> None:
    model = adapted(make_text_model(dtype=dtype), targets)
    expected_logits, expected = gradients(model)
    use_recompute_layers(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=torch.arange(6, 26)[None]).logits, _unpatched_logits(dtype, targets))
    logits, result = gradients(model)
    assert torch.equal(logits, expected_logits)
    assert result.keys() == expected.keys()
    for name in expected:
        error = (result[name] - expected[name]).norm() / expected[name].norm()
        assert error < (1e-5 if dtype == torch.float32 else 2e-2), name


def _unpatched_logits(dtype: torch.dtype, targets: list[str]) -> Tensor:
    with torch.no_grad():
        model = adapted(make_text_model(dtype=dtype), targets)
        logits: Tensor = model(input_ids=torch.arange(6, 26)[None]).logits
    return logits


def test_recomputed_layers_have_the_same_gradients_bit_for_bit() -> None:
    kept, recomputed = (adapted(make_text_model(dtype=torch.bfloat16)).train() for _ in range(2))
    for model in (kept, recomputed):
        use_recompute_layers(model)
    recompute_activations(recomputed)
    (expected_logits, expected), (logits, result) = gradients(kept), gradients(recomputed)
    assert torch.equal(logits, expected_logits)
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_switching_recomputation_on_warns_of_nothing() -> None:
    model = adapted(make_text_model())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recompute_activations(model)


def test_dropout_before_the_lora_is_unchanged() -> None:
    plain, patched = (adapted(make_text_model(), dropout=0.3).train() for _ in range(2))
    use_recompute_layers(patched)
    torch.manual_seed(3)
    _, expected = gradients(plain)
    torch.manual_seed(3)
    _, result = gradients(patched)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-4, atol=1e-6)


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result.requires_grad
    return sum(storages.values())


def test_a_norm_keeps_its_input_in_its_own_type_and_one_number_per_token() -> None:
    norm = Gemma3RMSNorm(256).bfloat16().requires_grad_(False)
    hidden = torch.randn(4, 50, 256, dtype=torch.bfloat16, requires_grad=True)
    tokens, gain = 4 * 50, 256 * 4
    ours = kept_bytes(lambda: rms_norm(hidden, norm.weight, norm.eps))
    assert ours == tokens * 256 * 2 + tokens * 4 + gain
    assert kept_bytes(lambda: norm(hidden)) > 1.9 * ours


def test_of_the_gated_mlp_only_gate_and_up_are_kept() -> None:
    """Counts living tensors of the product's size: the hooks of the down projection hide it from other hooks."""
    import gc

    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 7))

        def forward(self, hidden: Tensor) -> Tensor:
            return hidden @ self.weight.T

    down = Down()
    gate, up = (torch.randn(2, 11, 7, requires_grad=True) for _ in range(2))

    def living() -> int:
        gc.collect()
        return len({t.data_ptr() for t in gc.get_objects() if type(t) is Tensor and t.numel() == gate.numel()})

    before = living()
    result = gated_down(gate, up, down)
    assert living() == before
    result.square().sum().backward()  # type: ignore[no-untyped-call]
    product = (nn.functional.gelu(gate, approximate="tanh") * up).detach()
    assert down.weight.grad is not None
    expected = 2 * (product @ down.weight.detach().T).flatten(0, 1).T @ product.flatten(0, 1)
    torch.testing.assert_close(down.weight.grad, expected)
