"""A step's micro-batches make the host wait for nothing, and `deterministic` is what it says."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import make_text_model
from lorachain.chain import runtime
from lorachain.chain.context import load_config
from lorachain.processes import Processes
from lorachain.tokens import IGNORE_INDEX, TokenRow, collate
from lorachain.training import loss as loss_module
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.determinism import deterministic_algorithms
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.step import TooLarge, run_micro_batches, to_device

ROWS = [TokenRow([2, *range(6, 6 + length)], first) for length, first in ((5, 1), (9, 4), (3, 2))]


class _Decoder(nn.Module):
    """Ids to hidden states, without attention: masks are another module's."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, hidden)
        self.scale = nn.Parameter(torch.ones(hidden))

    def forward(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(last_hidden_state=self.embeddings(input_ids) * self.scale)


def test_no_micro_batch_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has no values: whatever needs one (`item`, `nonzero`, `if tensor`) raises."""
    model = SupervisedLanguageModel(make_text_model())
    decoder = _Decoder(300, 8).to("meta")
    monkeypatch.setattr(loss_module, "text_decoder", lambda model: decoder)
    monkeypatch.setattr(loss_module, "head_weight", lambda model: decoder.embeddings.weight.detach())
    batches = [collate([ROWS[:2], ROWS[2:]], 0).as_inputs(), collate([ROWS], 0).as_inputs()]
    loss = run_micro_batches(
        model,
        batches,
        {name: torch.full((), 12.0, device="meta") for name in ("normalizer", "pairs")},
        backward=lambda loss: loss.backward(),  # type: ignore[no-untyped-call]
        without_exchange=lambda: nullcontext(),
        catch=True,
    )
    assert isinstance(loss, Tensor)
    assert loss.is_meta
    assert decoder.scale.grad is not None
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()


def test_rows_that_are_supervised_are_found_when_a_batch_is_made() -> None:
    batch = collate([ROWS[:2], ROWS[2:]], 0)
    flat = batch.labels.flatten()
    assert batch.supervised_rows.tolist() == [i for i, label in enumerate(flat.tolist()) if label != IGNORE_INDEX]
    assert batch.supervised == len(batch.supervised_rows) == sum(row.supervised for row in ROWS)


def test_a_micro_batch_without_a_share_of_the_step_has_no_row() -> None:
    schedule = BatchSchedule(
        lambda epoch: [[ROWS[0]]],
        epochs=1,
        batch_size=1,
        micro_batch_tokens=8,
        pad_id=0,
        seed=0,
        processes=Processes(1, 2),
    )
    (spare,) = schedule[0]["micro_batches"]
    assert spare["supervised"].tolist() == []
    loss = SupervisedLanguageModel(make_text_model())(**spare, normalizer=torch.tensor(1.0))
    assert loss.item() == 0.0


def test_copies_to_a_gpu_are_queued_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    def pin(tensor: Tensor) -> Tensor:
        calls.append(("pin", None))
        return tensor

    def move(tensor: Tensor, *where: Any, **how: Any) -> Tensor:
        calls.append(("to", (where, how)))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    tensor = torch.ones(3)
    assert to_device({"input_ids": tensor, "longest": 3}, torch.device("cuda:1"))["longest"] == 3
    assert calls == [("pin", None), ("to", ((torch.device("cuda:1"),), {"non_blocking": True}))]
    calls.clear()
    to_device({"input_ids": tensor}, torch.device("cpu"))
    assert [name for name, _ in calls] == ["to"]


def test_a_micro_batch_that_does_not_fit_has_its_size() -> None:
    batch = collate([ROWS[:2], ROWS[2:]], 0).as_inputs()
    assert TooLarge.of(batch) == TooLarge(tokens=2 * 16, sequences=3)


def test_deterministic_algorithms_are_used_within_and_not_after() -> None:
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    memory: Any = torch.utils.deterministic
    try:
        with deterministic_algorithms(False):
            assert not torch.are_deterministic_algorithms_enabled()
        with deterministic_algorithms(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.backends.cudnn.deterministic
            assert not memory.fill_uninitialized_memory
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
        assert not torch.are_deterministic_algorithms_enabled()
        assert memory.fill_uninitialized_memory
    finally:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        if before is not None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = before


def test_the_workspace_of_cublas_is_set_before_the_device_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "0")

    def resolve(name: str) -> torch.device:
        seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        return torch.device("cpu")

    monkeypatch.setattr(runtime, "resolve_device", resolve)
    runtime.start_runtime(load_config())
    runtime.start_runtime(load_config(overrides=[{"training": {"deterministic": True}}]))
    assert seen == [":0:0", ":4096:8"]
    assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"


def test_the_setting_decides_the_result_only_where_it_is_on(tmp_path: Path) -> None:
    off = load_config().training.deciding()
    on = load_config(overrides=[{"training": {"deterministic": True}}]).training.deciding()
    assert "deterministic" not in off
    assert on == off | {"deterministic": True}
