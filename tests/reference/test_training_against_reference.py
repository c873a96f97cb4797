"""Loss, optimizer step and batch schedule against the plain references of this directory, on random inputs."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import make_multimodal_model, make_text_model
from lorachain.processes import Processes
from lorachain.tokens import IGNORE_INDEX, TokenRow, collate
from lorachain.training import loss as loss_module
from lorachain.training.batch_schedule import BatchSchedule, Pack
from lorachain.training.loss import SupervisedLanguageModel, supervised_cross_entropy
from lorachain.training.optimizer import MasterWeightAdamW, master_tensors
from lorachain.weights.load import plain_model
from lorachain.weights.lora import PeftModel, add_new_lora
from reference.plain_adamw import PlainAdamW
from reference.plain_loss import mean_loss, summed_loss
from reference.plain_schedule import replay_of_steps, steps_of_epoch

FEW = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)


# ---- loss ------------------------------------------------------------------------------------------------------------


@FEW
@given(
    count=st.integers(0, 13),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    row_block=st.integers(1, 8),
    vocabulary_block=st.integers(1, 16),
    size=st.sampled_from([0.1, 1.0, 20.0]),
    upstream=st.sampled_from([1.0, 0.25]),
    seed=seeds,
)
def test_loss_and_gradient_are_those_of_full_logits(
    count: int, width: int, vocabulary: int, row_block: int, vocabulary_block: int, size: float, upstream: float,
    seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    hidden = (size * torch.randn(count, width, generator=generator)).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator)
    targets = torch.randint(0, vocabulary, (count,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "ROW_BLOCK", row_block)
        patch.setitem(loss_module.VOCABULARY_BLOCK, "cpu", vocabulary_block)
        total = supervised_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(total * upstream, hidden)
    exact = hidden.detach().double().requires_grad_()
    expected = summed_loss(exact, weight.double(), targets)
    (expected_gradient,) = torch.autograd.grad(expected * upstream, exact)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), expected.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-5)


@FEW
@given(count=st.integers(1, 13), row_block=st.integers(1, 8), vocabulary_block=st.integers(1, 300), seed=seeds)
def test_statistics_of_bf16_logits_are_float32(count: int, row_block: int, vocabulary_block: int, seed: int) -> None:
    """Given the logits in bf16, only their products round. Exponentials in bf16 are off by 1e-3, and so is a sum."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 32, generator=generator).bfloat16()
    weight = (0.5 * torch.randn(300, 32, generator=generator)).bfloat16()
    targets = torch.randint(0, 300, (count,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "ROW_BLOCK", row_block)
        patch.setitem(loss_module.VOCABULARY_BLOCK, "cpu", vocabulary_block)
        total = supervised_cross_entropy(hidden, weight, targets)
    logits = (hidden @ weight.T).double()  # (N, V), rounded to bf16 by the product
    of_targets = (hidden.double() * weight[targets].double()).sum(dim=1)
    expected = (logits.exp().sum(dim=1).log() - of_targets).sum()
    assert total.item() == pytest.approx(expected.item(), rel=2e-5, abs=1e-4 * count)


TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]


def lora_model(kind: str, dtype: torch.dtype, seed: int) -> PeftModel:
    """A LoRA with B far from zero; factors in the base's type, as in training."""
    base = make_text_model(dtype=dtype) if kind == "text" else make_multimodal_model(dtype=dtype)
    model = add_new_lora(
        base, base_path="b", rank=4, alpha=8, dropout=0.0, use_rslora=False, target_modules=TARGETS, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model


def gradient_of(model: PeftModel) -> Tensor:
    parts = [p.grad.float().flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_a_training_loss_is_that_of_each_document_by_itself(
    kind: str, dtype: torch.dtype, rel: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, padded and in micro-batches, through both classes; with several blocks of rows and of vocabulary.

    In bf16 the whole model rounds; the reference is float32 then too.
    """
    monkeypatch.setattr(loss_module, "ROW_BLOCK", 16)
    monkeypatch.setitem(loss_module.VOCABULARY_BLOCK, "cpu", 100)
    generator = torch.Generator().manual_seed(3)
    rows = [
        TokenRow([2, *torch.randint(6, 380, (length,), generator=generator).tolist()], 4)
        for length in torch.randint(6, 40, (7,), generator=generator).tolist()
    ]
    normalizer = torch.tensor(float(sum(len(row.ids) - row.supervised_from for row in rows)))
    model, loss = lora_model(kind, dtype, 1), 0.0
    for packs in ([rows[:2], rows[2:5]], [rows[5:]]):
        part = SupervisedLanguageModel(model)(**collate(packs, 0).as_inputs(), normalizer=normalizer)
        part.backward()
        loss += part.item()
    plain = lora_model(kind, dtype, 1).float()
    expected = mean_loss(plain_model(plain), [(row.ids, row.supervised_from) for row in rows])
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=rel / 10)
    difference = gradient_of(model) - gradient_of(plain)
    assert difference.norm() <= rel * gradient_of(plain).norm()


# ---- optimizer -------------------------------------------------------------------------------------------------------


@FEW
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    learning_rate=st.floats(1e-5, 1e-2),
    weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
    steps=st.integers(1, 6),
    seed=seeds,
)
def test_adamw_on_masters_number_by_number(
    dtype: torch.dtype, learning_rate: float, weight_decay: float, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(shape, generator=generator) for shape in ((2, 3), (5,))]
    parameters = [nn.Parameter(tensor.clone()) for tensor in start]
    optimizer = MasterWeightAdamW(parameters, compute_dtype=dtype, lr=learning_rate, weight_decay=weight_decay)
    plain = [PlainAdamW(t.flatten().tolist(), learning_rate, weight_decay) for t in start]
    for _ in range(steps):
        for parameter, reference in zip(parameters, plain, strict=True):
            gradient = torch.randn(parameter.shape, generator=generator).to(dtype)
            parameter.grad = gradient.float()
            reference.step(gradient.flatten().tolist())
        optimizer.step()
    for parameter, master, reference in zip(parameters, optimizer.masters, plain, strict=True):
        assert master.dtype == torch.float32
        torch.testing.assert_close(master.flatten(), torch.tensor(reference.master), rtol=1e-6, atol=1e-6)
        assert parameter.dtype == dtype
        assert torch.equal(parameter, master.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_are_the_parameters_before_they_are_rounded(dtype: torch.dtype) -> None:
    """The LoRA that was drawn in float32, bit for bit: bf16 keeps 8 of its 24 bits."""
    start = torch.randn(64, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(start.clone())
    optimizer = MasterWeightAdamW([parameter], compute_dtype=dtype, lr=1e-3, weight_decay=0.0)
    assert torch.equal(master_tensors(optimizer, ["a"])["a"], start)
    assert torch.equal(parameter, start.to(dtype))
    optimizer.step()  # no gradient: nothing changes
    assert torch.equal(optimizer.masters[0], start)
    parameter.grad = torch.ones(64)
    optimizer.step()
    assert not torch.equal(optimizer.masters[0], start)
    trained = optimizer.masters[0].clone()
    parameter.data.zero_()  # masters are copies
    optimizer.copy_to_model()
    assert torch.equal(optimizer.masters[0], trained)
    assert torch.equal(parameter, optimizer.masters[0].to(dtype))


# ---- batch schedule --------------------------------------------------------------------------------------------------


@st.composite
def epochs(draw: st.DrawFn) -> tuple[list[list[int]], list[int], dict[str, Any]]:
    """Lengths of the packs of two epochs, the number of replayed packs of each, and settings."""
    count = draw(st.integers(1, 70))
    lengths = [draw(st.lists(st.integers(2, 9), min_size=count, max_size=count)) for _ in range(2)]
    replayed = [draw(st.integers(0, 12)) for _ in range(2)]
    values = {
        "batch_size": draw(st.integers(1, 4)),
        "micro_batch_tokens": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 9)),
    }
    return lengths, replayed, values


def pack(number: int, epoch: int, length: int) -> Pack:
    return [TokenRow([1000 + number, 500 + epoch, *range(length - 2)], 1 + number % (length - 1))]


@FEW
@given(case=epochs(), world=st.integers(1, 3))
def test_steps_are_those_of_the_plain_schedule(
    case: tuple[list[list[int]], list[int], dict[str, Any]], world: int
) -> None:
    lengths, replayed, values = case
    packs = [[pack(number, epoch, length) for number, length in enumerate(lengths[epoch])] for epoch in range(2)]
    replay = [[pack(-1 - number, epoch, 4) for number in range(replayed[epoch])] for epoch in range(2)]
    parts = [
        BatchSchedule(
            lambda epoch: packs[epoch], epochs=2, pad_id=0, processes=Processes(rank, world),
            replay_of_epoch=lambda epoch: replay[epoch], **values,
        )
        for rank in range(world)
    ]  # fmt: skip
    schedule, budget, step = parts[0], values["micro_batch_tokens"], 0
    for epoch in range(2):
        order = steps_of_epoch(lengths[epoch], seed=values["seed"], epoch=epoch, batch_size=values["batch_size"])
        assert schedule.steps_per_epoch == len(order)
        spread = replay_of_steps(replayed[epoch], len(order))
        for own, old in zip(order, spread, strict=True):
            expected = [*(packs[epoch][i] for i in own), *(replay[epoch][i] for i in old)]
            assert schedule.packs_of_step(step) == expected
            supervised = sum(len(row.ids) - row.supervised_from for (row,) in expected)
            batches = []
            for part in parts:
                inputs = part[step]
                assert inputs["supervised"] == inputs["normalizer"].item() == supervised
                assert inputs["tokens"] == sum(len(row.ids) for (row,) in expected)
                batches.append(inputs["micro_batches"])
            assert len({len(own_batches) for own_batches in batches}) == 1
            seen: list[int] = []
            for batch in (batch for own_batches in batches for batch in own_batches):
                ids, labels = batch["input_ids"], batch["labels"]
                assert ids.numel() <= budget or len(ids) == 1
                if (labels != IGNORE_INDEX).any():
                    assert ((labels != IGNORE_INDEX).any(dim=1)).all()
                    seen += ids[:, 0].tolist()
            assert sorted(seen) == sorted(row.ids[0] for (row,) in expected)
            step += 1
    assert step == len(schedule)


def test_short_and_long_steps_alternate() -> None:
    """Steps are sorted by length within a bucket, and shuffled again: otherwise each bucket would go from short to
    long, and the loss with it."""
    lengths = list(range(2, 66))
    (packs,) = [[pack(number, 0, length) for number, length in enumerate(lengths)]]
    for seed in range(5):
        schedule = BatchSchedule(
            lambda epoch: packs, epochs=1, batch_size=4, micro_batch_tokens=100, pad_id=0, seed=seed
        )
        totals = [sum(len(row.ids) for (row,) in schedule.packs_of_step(step)) for step in range(16)]
        assert sorted(totals) != totals
        assert sorted(totals)[0] == sum(lengths[:4])  # within a step, packs of like length: least padding
