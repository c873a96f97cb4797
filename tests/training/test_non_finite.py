"""Training stops at the first loss, gradient or weight that is NaN or infinite, and saves nothing of that step."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from chain_making import make_workspace, options_of, run_command_line
from conftest import make_text_model
from lorachain.errors import NonFiniteError
from lorachain.tokens import TokenRow
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.checkpoints import checkpoint_directory
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.load import plain_model
from lorachain.weights.lora import PeftModel, add_new_lora
from lorachain.workspace import checkpoint_steps

STEPS = 4


def lora_model() -> PeftModel:
    return add_new_lora(
        make_text_model(dtype=torch.bfloat16), base_path="b", rank=2, alpha=4, dropout=0.0, use_rslora=False,
        target_modules=["q_proj", "down_proj"], seed=0,
    )  # fmt: skip


def run_training(
    model: PeftModel,
    run: Path,
    *,
    learning_rate: float = 1e-3,
    on_step: Callable[[Progress], None] = lambda progress: None,
    gradient_checkpointing: bool = False,
    max_grad_norm: float = 1.0,
) -> tuple[Progress, dict[str, Tensor]]:
    """Four steps of one epoch, with a checkpoint after each."""
    generator = torch.Generator().manual_seed(0)
    packs = [[TokenRow([2, *torch.randint(6, 300, (12,), generator=generator).tolist()], 4)] for _ in range(STEPS)]
    return train(
        model,
        BatchSchedule(lambda epoch: packs, epochs=1, batch_size=1, micro_batch_tokens=64, pad_id=0, seed=0),
        TrainingSettings(
            learning_rate=learning_rate, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0,
            max_grad_norm=max_grad_norm, seed=0, gradient_checkpointing=gradient_checkpointing,
            save_every_minutes=1e9, keep_checkpoints=9, save_every_steps=1,
        ),
        run=run,
        fingerprint="f",
        on_epoch_end=lambda epoch, step: False,
        on_step=on_step,
        on_message=lambda message: None,
    )  # fmt: skip


def set_after_step(step: int, target: Tensor, value: float) -> Callable[[Progress], None]:
    """Overwrites a number of the model once `step` is done and before it is saved."""

    def on_step(progress: Progress) -> None:
        if progress.step == step:
            with torch.no_grad():
                target.view(-1)[0] = value

    return on_step


def assert_finite(run: Path) -> None:
    for step in checkpoint_steps(run):
        tensors = load_file(checkpoint_directory(run, step) / "adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_base_with_nan_stops_at_the_first_step(tmp_path: Path, value: float, gradient_checkpointing: bool) -> None:
    model = lora_model()
    with torch.no_grad():
        plain_model(model).model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(NonFiniteError) as caught:
        run_training(model, tmp_path, gradient_checkpointing=gradient_checkpointing)
    message = str(caught.value)
    assert message.startswith("the loss of step 1 of 4 (13 tokens, 9 supervised) is nan. Training stopped")
    for place in ("weights of the base", "parent adapter", "learning rate (0.001)", "(bfloat16;", "data of this step"):
        assert place in message
    assert checkpoint_steps(tmp_path) == []


def test_a_later_step_keeps_the_checkpoints_before_it(tmp_path: Path) -> None:
    model = lora_model()
    weight = plain_model(model).model.layers[1].mlp.up_proj.weight
    with pytest.raises(NonFiniteError, match=r"the loss of step 3 of 4 .* is nan"):
        run_training(model, tmp_path, on_step=set_after_step(2, weight, float("nan")))
    assert checkpoint_steps(tmp_path) == [2, 1]
    assert_finite(tmp_path)


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_stops_the_run_where_the_loss_is_finite(tmp_path: Path, max_grad_norm: float, value: float) -> None:
    model = lora_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))  # type: ignore[no-untyped-call]
    with pytest.raises(NonFiniteError, match=f"the gradient norm of step 1 of 4 is {value}"):
        run_training(model, tmp_path, max_grad_norm=max_grad_norm)
    assert checkpoint_steps(tmp_path) == []
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.equal(p.float(), before[name].to(p.dtype).float())


def test_an_adapter_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """An infinite learning rate: loss and gradient of the first step are finite, the adapter after it is not."""
    with pytest.raises(NonFiniteError, match="the adapter or the optimizer state is NaN or infinite after step 1"):
        run_training(lora_model(), tmp_path, learning_rate=float("inf"))
    assert checkpoint_steps(tmp_path) == []


def test_a_run_resumes_before_weights_that_are_not_finite(tmp_path: Path) -> None:
    """Stops at step 3; with the cause removed, the same run resumes at step 3 and ends as if nothing had happened."""
    _, expected = run_training(lora_model(), tmp_path / "uninterrupted")
    model = lora_model()
    weight: nn.Parameter = plain_model(model).model.layers[1].mlp.up_proj.weight
    with pytest.raises(NonFiniteError):
        run_training(model, tmp_path / "stopped", on_step=set_after_step(2, weight, float("nan")))
    progress, result = run_training(lora_model(), tmp_path / "stopped")
    assert progress.step == len(progress.losses) == STEPS
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_the_command_line_exits_with_2_and_leaves_no_trained_adapter(
    tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_workspace(tmp_path / "w", save_tiny("text"))
    assert run_command_line("init", *options_of(root))[0] == 0
    forward, calls = SupervisedLanguageModel.forward, count(1)

    def loss(self: SupervisedLanguageModel, **inputs: Any) -> Tensor:
        return forward(self, **inputs) * (float("nan") if next(calls) > 1 else 1.0)

    monkeypatch.setattr(SupervisedLanguageModel, "forward", loss)
    code, _, messages = run_command_line("train", "00", *options_of(root))
    assert code == 2, messages
    assert "Training stopped, and nothing of this step is saved" in " ".join(messages.split())
    assert "Traceback" not in messages
    assert not (root / "model" / "00_trained" / "tiny").exists()
    assert not list((root / "model" / "00_training").rglob("checkpoint-*"))
