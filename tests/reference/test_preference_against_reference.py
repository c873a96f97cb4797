"""The loss of pairs against its definition and, where trl is installed, against TRL's trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.processes import Processes
from lorachain.tokens import REJECTED, TokenRow
from lorachain.training.batch_schedule import BatchSchedule, Pack
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.training.progress import PreferenceSettings
from lorachain.weights.lora import PeftModel, add_new_lora
from reference.plain_loss import Document
from reference.plain_preference import Pair, preference_loss

BETA, WEIGHT = 0.3, 0.7
PROMPT = 5


def new_lora(base: Any) -> PeftModel:
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    return add_new_lora(
        base, base_path="b", rank=4, alpha=8, dropout=0.0, use_rslora=False, target_modules=targets, seed=0
    )


def move(model: PeftModel) -> PeftModel:
    """Fills the adapter: with B = 0 it would be its own reference."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def documents(count: int, seed: int) -> list[Document]:
    """Answers of different lengths; every two have the same prompt."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(6, 380, (length,), generator=generator).tolist()

    prompts = [[2, *draw(PROMPT - 1)] for _ in range(-(-count // 2))]
    lengths = torch.randint(2, 30, (count,), generator=generator).tolist()
    return [([*prompts[i // 2], *draw(length)], PROMPT) for i, length in enumerate(lengths)]


def pairs_of(answers: list[Document]) -> list[Pair]:
    return list(zip(answers[::2], answers[1::2], strict=True))


def packs_of(pairs: list[Pair], others: list[Document]) -> list[Pack]:
    packed: list[Pack] = [
        [TokenRow(right[0], right[1]), TokenRow(wrong[0], wrong[1], form=REJECTED)] for right, wrong in pairs
    ]
    return packed + [[TokenRow(*document)] for document in others]


def step_loss(
    model: PeftModel, packs: list[Pack], *, micro_batch_tokens: int, world: int = 1, packed: bool = False
) -> tuple[float, int]:
    """The loss of one optimizer step with its gradients in `model`, and how many micro-batches it took."""
    module = SupervisedLanguageModel(model, preference=PreferenceSettings(BETA, WEIGHT))
    total, count = 0.0, 0
    for rank in range(world):
        schedule = BatchSchedule(
            lambda epoch: packs,
            epochs=1,
            batch_size=len(packs),
            micro_batch_tokens=micro_batch_tokens,
            pad_id=0,
            seed=0,
            processes=Processes(rank, world),
        )
        schedule.packed = packed  # the bounds are for attention on CUDA; on a CPU, `position_ids` say the same
        step = schedule[0]
        for batch in step["micro_batches"]:
            batch = {name: value for name, value in batch.items() if name not in ("bounds", "longest")}
            loss = module(**batch, normalizer=step["normalizer"], pairs=step["pairs"])
            loss.backward()
            total, count = total + loss.item(), count + 1
    return total, count


def gradients(model: PeftModel) -> Tensor:
    """Of all factors that are trained, as one vector."""
    found = [p.grad.flatten() for name, p in sorted(model.named_parameters()) if p.requires_grad and p.grad is not None]
    assert found
    vector = torch.cat(found).clone()
    model.zero_grad()
    return vector


@pytest.mark.parametrize("make", [make_text_model, make_multimodal_model])
@pytest.mark.parametrize(
    ("micro_batch_tokens", "world", "packed"), [(100_000, 1, False), (90, 1, False), (90, 3, True), (200, 1, True)]
)
def test_loss_and_gradients_of_pairs_equal_the_definition(
    make: Callable[..., Any], micro_batch_tokens: int, world: int, packed: bool
) -> None:
    """Several pairs in a row, padded, in several micro-batches and shared by processes; questions without a pair are
    among them."""
    pairs, others = pairs_of(documents(8, seed=3)), documents(3, seed=4)
    model = move(new_lora(make()))
    loss, batches = step_loss(
        model, packs_of(pairs, others), micro_batch_tokens=micro_batch_tokens, world=world, packed=packed
    )
    result = gradients(model)
    assert (batches == 1) == (micro_batch_tokens == 100_000)

    plain = move(new_lora(make()))
    expected = preference_loss(plain, make(), pairs, others, beta=BETA, weight=WEIGHT)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert (result - gradients(plain)).norm() <= 1e-5 * result.norm()


def test_without_a_wrong_answer_the_loss_is_that_of_supervised_training() -> None:
    others = documents(5, seed=4)
    settled = step_loss(move(new_lora(make_text_model())), packs_of([], others), micro_batch_tokens=100_000)
    module = SupervisedLanguageModel(move(new_lora(make_text_model())))
    schedule = BatchSchedule(
        lambda epoch: packs_of([], others), epochs=1, batch_size=5, micro_batch_tokens=100_000, pad_id=0, seed=0
    )
    step = schedule[0]
    assert "preference" not in step["micro_batches"][0]
    assert settled == (module(**step["micro_batches"][0], normalizer=step["normalizer"]).item(), 1)


def test_pairs_without_settings_are_an_error() -> None:
    step = BatchSchedule(
        lambda epoch: packs_of(pairs_of(documents(2, seed=3)), []),
        epochs=1,
        batch_size=1,
        micro_batch_tokens=1000,
        pad_id=0,
        seed=0,
    )[0]
    module = SupervisedLanguageModel(new_lora(make_text_model()))
    with pytest.raises(ValueError, match="no preference is trained"):
        module(**step["micro_batches"][0], normalizer=step["normalizer"], pairs=step["pairs"])


def test_the_loss_and_gradients_are_those_of_trl(tmp_path: Path) -> None:
    """TRL's DPOTrainer with `loss_type=["sigmoid", "sft"]`, which is what became of its `rpo_alpha`."""
    trl = pytest.importorskip("trl", reason="trl is not installed (pip install 'lorachain[bench]')")
    datasets = pytest.importorskip("datasets")
    pairs = pairs_of(documents(6, seed=3))
    model = new_lora(make_text_model())
    trainer = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            beta=BETA,
            loss_type=["sigmoid", "sft"],
            loss_weights=[WEIGHT, 1.0],
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            disable_dropout=False,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=make_tokenizer(),
    )
    move(trainer.model)  # after TRL has copied the untrained adapter, which is its reference
    batch = trainer.data_collator(
        [
            {"prompt_ids": right[0][:PROMPT], "chosen_ids": right[0][PROMPT:], "rejected_ids": wrong[0][PROMPT:]}
            for right, wrong in pairs
        ]
    )
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, batch)
    expected.backward()
    expected_gradients = torch.cat(
        [
            p.grad.flatten()
            for name, p in sorted(trainer.model.named_parameters())
            if ".default." in name and p.grad is not None
        ]
    )

    ours = move(new_lora(make_text_model()))
    loss, _ = step_loss(ours, packs_of(pairs, []), micro_batch_tokens=100_000)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert (gradients(ours) - expected_gradients).norm() <= 1e-5 * expected_gradients.norm()
