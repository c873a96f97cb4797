"""Whether a micro-batch's activations fit in memory."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from conftest import make_multimodal_model, make_text_model
from lorachain.tokens import TokenRow, collate
from lorachain.training.activations import activation_bytes, needs_recomputation
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.weights.lora import add_new_lora


class _KeptBytes:
    """Counts what autograd saves for the backward pass: each storage once, without the model's parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.storages: dict[int, int] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_autograd_keeps(dtype: torch.dtype) -> None:
    # Wide compared with its vocabulary and heads, as real models are, so that the layers dominate.
    base = make_text_model(dtype=dtype, hidden_size=256, intermediate_size=1024, num_attention_heads=4, head_dim=64)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = add_new_lora(
        base, base_path="b", rank=2, alpha=4, dropout=0.0, use_rslora=False, target_modules=targets, seed=0
    )
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    module = SupervisedLanguageModel(model)
    batch = collate([[TokenRow(list(range(6, 134)), 127)]], 0)  # one supervised token, so that the head hardly counts
    kept = _KeptBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        module(**batch.as_inputs(), normalizer=torch.tensor(1.0))
    assert activation_bytes(model, 128) == pytest.approx(sum(kept.storages.values()), rel=0.1)


@pytest.mark.parametrize("make", [make_text_model, make_multimodal_model])
def test_layers_are_recomputed_where_activations_do_not_fit(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = make()
    for free, expected in ((2 * activation_bytes(model, 1000), False), (activation_bytes(model, 1000), True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert needs_recomputation(model, 1000) is expected
