"""When are a micro-batch's activations too many to keep?"""

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from conftest import make_multimodal_model, make_text_model
from lorachain.training.activations import activation_bytes, needs_checkpointing


class _KeptBytes:
    """Counts what autograd saves for the backward pass, each storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor


def test_the_count_is_what_autograd_keeps_to_within_two_times() -> None:
    # Wide against its vocabulary and heads, as real models are, so that the layers dominate.
    model = make_text_model(hidden_size=256, intermediate_size=1024, num_attention_heads=4, head_dim=64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers" in name)
    kept = _KeptBytes()
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        model.model(input_ids=torch.randint(6, 300, (1, 128)))
    assert 0.5 < activation_bytes(model, 128) / sum(kept.storages.values()) < 2.0


@pytest.mark.parametrize("make", [make_text_model, make_multimodal_model])
def test_checkpointing_is_wanted_just_where_they_do_not_fit(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = make()
    for free, wanted in ((2 * activation_bytes(model, 1000), False), (activation_bytes(model, 1000), True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert needs_checkpointing(model, 1000) is wanted
