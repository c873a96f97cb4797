"""A step that runs out of memory is repeated with less of it, with the same gradients. The shortage is injected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from conftest import TEST_DEVICE, make_text_model
from lorachain import memory
from lorachain.artifacts import MemoryChange
from lorachain.errors import DeviceError
from lorachain.memory import free_memory, is_out_of_memory
from lorachain.tokens import REJECTED, TokenRow, collate
from lorachain.training.activations import activation_bytes, needs_recomputation
from lorachain.training.batch_schedule import BatchSchedule, parts_of_pack
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.memory_use import out_of_memory_as_error
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.step import TooLarge
from lorachain.training.trainer import train
from lorachain.weights.load import text_decoder
from lorachain.weights.lora import PeftModel, add_new_lora

LENGTH, PACKS = 12, 4
EXHAUSTED = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.55 GiB"


class Killed(BaseException):
    """Nothing catches it."""


def lora_model(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> PeftModel:
    return add_new_lora(
        make_text_model(dtype=dtype), base_path="b", rank=2, alpha=4, dropout=dropout, use_rslora=False,
        target_modules=["q_proj", "down_proj"], seed=0,
    )  # fmt: skip


def packs(sequences: int) -> list[list[TokenRow]]:
    """Four packs of 12 tokens; each is so many sequences."""
    generator = torch.Generator().manual_seed(0)
    length = LENGTH // sequences
    return [
        [
            TokenRow([2, *torch.randint(6, 300, (length - 1,), generator=generator).tolist()], 2)
            for _ in range(sequences)
        ]
        for _ in range(PACKS)
    ]


def go(
    run: Path,
    model: PeftModel,
    *,
    micro_batch_tokens: int = 2 * LENGTH,
    sequences: int = 1,
    checkpointing: bool | Literal["auto"] = "auto",
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Progress, dict[str, Tensor], list[str]]:
    """Three steps, each of four packs."""
    messages: list[str] = []
    progress, tensors = train(
        model,
        BatchSchedule(
            lambda epoch: packs(sequences), epochs=3, batch_size=PACKS, micro_batch_tokens=micro_batch_tokens,
            pad_id=0, seed=0,
        ),
        TrainingSettings(
            learning_rate=1e-2, warmup_ratio=0.0, scheduler="constant", weight_decay=0.0, max_grad_norm=0.5, seed=0,
            gradient_checkpointing=checkpointing, save_every_minutes=1e9, keep_checkpoints=9, save_every_steps=1,
            deterministic=TEST_DEVICE.type != "cpu",
        ),
        run=run,
        fingerprint="f",
        on_epoch_end=lambda epoch, step: False,
        on_step=on_step,
        on_message=messages.append,
    )  # fmt: skip
    return progress, tensors, messages


def fits(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """A device on which a micro-batch of more than `tokens` tokens does not fit."""
    forward = SupervisedLanguageModel.forward

    def limited(self: SupervisedLanguageModel, **inputs: Any) -> Tensor:
        if inputs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError(EXHAUSTED)
        return forward(self, **inputs)

    monkeypatch.setattr(SupervisedLanguageModel, "forward", limited)


def fail_in_backward_pass(model: PeftModel, number: int) -> None:
    """Runs out of memory in the backward pass `number`, when the upper layers have their gradients already."""
    passes = [0]

    def exhausted(gradient: Tensor) -> Tensor:
        passes[0] += 1
        if passes[0] == number:
            raise torch.OutOfMemoryError(EXHAUSTED)
        return gradient

    lowest = next(p for name, p in model.named_parameters() if "layers.1." in name and p.requires_grad)
    lowest.register_hook(exhausted)  # type: ignore[no-untyped-call]


def recomputes(model: PeftModel) -> bool:
    return any(getattr(layer, "gradient_checkpointing", False) for layer in text_decoder(model).modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layers_are_recomputed_first_and_the_run_has_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """In the second micro-batch of step 2; with dropout, whose masks are drawn again."""
    expected, adapter, _ = go(tmp_path / "plain", lora_model(dtype, dropout=0.3))
    assert expected.memory_changes == []
    model = lora_model(dtype, dropout=0.3)
    fail_in_backward_pass(model, 4)
    assert not recomputes(model)
    progress, result, messages = go(tmp_path / "short", model)
    assert recomputes(model)
    assert progress.losses == expected.losses
    assert (progress.tokens, progress.supervised_tokens) == (expected.tokens, expected.supervised_tokens)
    assert all(torch.equal(result[name], adapter[name]) for name in adapter)
    assert progress.memory_changes == [MemoryChange(step=2, gradient_checkpointing=True, micro_batch_tokens=24)]
    assert messages == [
        "out of memory in step 2, which is repeated: from here on the backward pass recomputes the layers "
        "(gradient_checkpointing)"
    ]


@pytest.mark.parametrize("sequences", [1, 2])
def test_then_micro_batches_are_halved_with_the_same_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequences: int
) -> None:
    """Down to a pack, and of two sequences in a pack down to one; to rounding in float32."""
    expected, adapter, _ = go(tmp_path / "plain", lora_model(), sequences=sequences)
    fits(monkeypatch, LENGTH // sequences)
    progress, result, messages = go(tmp_path / "short", lora_model(), sequences=sequences)
    halvings = [12, 6][:sequences]
    assert [change.micro_batch_tokens for change in progress.memory_changes] == [24, *halvings]
    assert all(change.step == 1 and change.gradient_checkpointing for change in progress.memory_changes)
    assert messages[1] == (
        "out of memory in step 1, which is repeated: from here on micro-batches have at most 12 tokens, because 24 do "
        "not fit"
    )
    assert progress.losses == pytest.approx(expected.losses, rel=1e-5)
    for name in adapter:
        torch.testing.assert_close(result[name], adapter[name], rtol=1e-3, atol=1e-5)


def test_a_run_that_had_to_change_something_resumes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits(monkeypatch, LENGTH)
    expected, adapter, _ = go(tmp_path / "whole", lora_model(torch.bfloat16))

    def kill(progress: Progress) -> None:
        if progress.step == 2:
            raise Killed

    with pytest.raises(Killed):
        go(tmp_path / "killed", lora_model(torch.bfloat16), on_step=kill)
    progress, result, messages = go(tmp_path / "killed", lora_model(torch.bfloat16))
    assert messages == ["resuming from checkpoint-1"]
    assert progress.memory_changes == expected.memory_changes
    assert progress.losses == expected.losses
    assert all(torch.equal(result[name], adapter[name]) for name in adapter)


@pytest.mark.parametrize(
    ("checkpointing", "part"),
    [("auto", "although the backward pass recomputes"), (False, 'set training.gradient_checkpointing = "auto"')],
)
def test_where_one_sequence_does_not_fit_the_message_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: Any, part: str
) -> None:
    fits(monkeypatch, LENGTH - 1)
    with pytest.raises(DeviceError) as caught:
        go(tmp_path, lora_model(), checkpointing=checkpointing)
    message = str(caught.value)
    assert message.startswith(f"out of memory on {TEST_DEVICE} in step 1 of 3: one sequence of 12 tokens does not fit")
    for word in (part, "max_length", 'quantization = "nf4"', "lora.rank", "`lorachain fit`"):
        assert word in message


def test_other_errors_of_a_step_are_not_taken_for_a_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SupervisedLanguageModel, **inputs: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SupervisedLanguageModel, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        go(tmp_path, lora_model())


def test_out_of_memory_outside_of_a_step_is_one_message() -> None:
    with (
        pytest.raises(DeviceError, match=r"out of memory on cuda:1 \(CUDA out of memory\. Tried to allocate 2\.00 GiB"),
        out_of_memory_as_error(torch.device("cuda:1")),
    ):
        raise torch.OutOfMemoryError(EXHAUSTED)
    with pytest.raises(ValueError, match="kept"), out_of_memory_as_error(torch.device("cpu")):
        raise ValueError("kept")


def test_what_says_that_memory_ran_out() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError(EXHAUSTED))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError(EXHAUSTED))


def test_the_allocators_own_cache_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver says 1 GB is free; PyTorch has 5 GB reserved, of which 2 GB hold tensors."""
    device, asked = torch.device("cuda:1"), list[torch.device]()

    def driver(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 10**9, 24 * 10**9

    monkeypatch.setattr(torch.cuda, "mem_get_info", driver)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 10**9)
    assert free_memory(device) == 4 * 10**9
    assert asked == [device]


def test_unused_memory_is_released_before_recomputation_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    model, order = make_text_model(), list[str]()

    def measure(device: torch.device) -> int:
        order.append("measure")
        return 2 * activation_bytes(model, 100)

    monkeypatch.setattr("lorachain.training.activations.release", lambda: order.append("release"))
    monkeypatch.setattr("lorachain.training.activations.free_memory", measure)
    assert needs_recomputation(model, 100) is False
    assert needs_recomputation(model, 200) is True
    assert order == ["release", "measure"] * 2
    assert memory.free_memory(torch.device("cpu")) > 0


def test_a_pack_is_split_at_its_sequences() -> None:
    rows = [TokenRow(list(range(length)), 1) for length in (3, 4, 2, 9, 1)]
    assert [[len(row) for row in part] for part in parts_of_pack(rows, 7)] == [[3, 4], [2], [9], [1]]
    assert [row for part in parts_of_pack(rows, 7) for row in part] == rows
    assert parts_of_pack(rows, 100) == [rows]


def test_a_wrong_answer_is_never_parted_from_the_right_one() -> None:
    right, wrong, other = TokenRow([2, 3, 4], 1), TokenRow([2, 5], 1, form=REJECTED), TokenRow([2, 6], 1)
    assert parts_of_pack([right, wrong, other], 4) == [[right, wrong], [other]]
    pair = collate([[right, wrong]], 0)
    assert TooLarge.of(pair.as_inputs()) == TooLarge(5, sequences=1)
    assert TooLarge.of(collate([[right, wrong], [other]], 0).as_inputs()).sequences == 2
