"""Layers sharded by FSDP2 compute the same. In one process here; `faults/test_two_processes.py` uses two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from conftest import TEST_DEVICE
from lorachain.artifacts import LayerKind
from lorachain.inference.eval_mode import eval_mode
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.sharding import shard_layers
from lorachain.weights.load import head_weight, is_sharded, text_decoder
from lorachain.weights.lora import PeftModel, adapter_tensors, add_new_lora, check_trainable, set_adapter_tensors


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def with_lora(base: PreTrainedModel) -> PeftModel:
    """A LoRA with B far from zero, so that gradients reach A too."""
    model = add_new_lora(
        base,
        base_path="b",
        rank=2,
        alpha=4,
        dropout=0.0,
        use_rslora=False,
        target_modules=["q_proj", "o_proj", "up_proj", "down_proj"],
        seed=0,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    return model


def loss_of(model: torch.nn.Module, layers: LayerKind) -> Tensor:
    ids = torch.arange(10, 34)[None]  # (1, 24)
    positions = torch.arange(24)
    inputs = {"input_ids": ids, "position_ids": positions[None], "labels": ids.roll(-1, 1), "supervised": positions}
    loss: Tensor = SupervisedLanguageModel(model, layers)(**inputs, normalizer=torch.tensor(24.0))
    return loss


def gradients(model: torch.nn.Module, layers: LayerKind) -> dict[str, Tensor]:
    loss_of(model, layers).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layers", ["recomputed", "fused"])
def test_loss_gradients_and_adapter_equal_those_of_unsharded_layers(
    alone: None, tiny_model: PreTrainedModel, layers: LayerKind
) -> None:
    model = with_lora(tiny_model)
    expected = gradients(model, layers)
    tensors = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    model.zero_grad()
    assert not is_sharded(model)
    shard_layers(model, torch.device(TEST_DEVICE))
    assert is_sharded(model)

    parts = {name for name, p in model.named_parameters() if isinstance(p, DTensor)}
    decoder = text_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    assert parts == {
        n for n, p in model.named_parameters() if n.startswith(f"{prefix}.layers.") and not p.requires_grad
    }
    assert not isinstance(head_weight(model), DTensor)

    # Evaluated before it is trained, as in a stage: the gathered buffers must serve training too.
    with eval_mode(model):
        read = loss_of(model, layers).item()
    sharded = gradients(model, layers)
    assert sharded.keys() == expected.keys()
    assert all(torch.equal(sharded[name], expected[name]) for name in expected)
    assert read == loss_of(model, layers).item()

    check_trainable(model)
    set_adapter_tensors(model, {name: tensor * 2 for name, tensor in tensors.items()})
    doubled = adapter_tensors(model)
    assert all(torch.equal(doubled[name], tensor * 2) for name, tensor in tensors.items())
    assert loss_of(model, layers).item() != read
