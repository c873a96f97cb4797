"""A run whose micro-batches are packed rows, as on CUDA, equals the run with padded rows."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from conftest import make_text_model
from lorachain.tokens import TokenRow
from lorachain.training import loss as loss_module
from lorachain.training.batch_schedule import BatchSchedule, Pack
from lorachain.training.progress import TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.lora import add_new_lora
from lorachain.weights.packed_attention import VARLEN
from reference import plain_varlen


def packs_of_epoch(epoch: int) -> list[Pack]:
    """Short sequences, some of them two in a pack, and one longer than the window of 16."""
    generator = torch.Generator().manual_seed(epoch)
    lengths = [[9], [5, 8], [30], [12], [3, 3, 4], [21]]
    return [
        [TokenRow([2, *torch.randint(6, 300, (n,), generator=generator).tolist()], 2) for n in pack] for pack in lengths
    ]


def trained(run: Path, *, recompute: bool) -> tuple[list[float], dict[str, Tensor]]:
    model = add_new_lora(
        make_text_model(), base_path="b", rank=2, alpha=4, dropout=0.0, use_rslora=False,
        target_modules=["q_proj", "v_proj", "down_proj"], seed=0,
    )  # fmt: skip
    settings = TrainingSettings(
        learning_rate=1e-2, warmup_ratio=0.0, scheduler="cosine", weight_decay=0.0, max_grad_norm=1.0, seed=0,
        gradient_checkpointing=recompute, save_every_minutes=60, keep_checkpoints=1,
    )  # fmt: skip
    schedule = BatchSchedule(packs_of_epoch, epochs=2, batch_size=3, micro_batch_tokens=40, pad_id=0, seed=0)
    progress, adapter = train(
        model, schedule, settings, run=run, fingerprint="f", on_epoch_end=lambda epoch, step: False,
        on_step=lambda progress: None, on_message=lambda message: None,
    )  # fmt: skip
    assert len(progress.losses) == 4
    return progress.losses, adapter


@pytest.mark.parametrize("recompute", [False, True])
def test_packed_rows_train_the_adapter_of_padded_rows(
    recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(tmp_path / "padded", recompute=recompute)
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen.varlen_attn)
    monkeypatch.setattr(loss_module, "use_fast_attention", lambda model: model.set_attn_implementation(VARLEN))
    losses, adapter = trained(tmp_path / "packed", recompute=recompute)
    assert losses == pytest.approx(expected[0], rel=1e-4)
    for name, tensor in expected[1].items():
        assert (adapter[name] - tensor).norm() < 1e-2 * tensor.norm(), name
