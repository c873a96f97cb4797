"""Loss and gradients equal the plain reference: full logits in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import make_multimodal_model, make_text_model
from lorachain.artifacts import LayerKind
from lorachain.tokens import TokenRow, collate
from lorachain.training import loss as loss_module
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.loss import SupervisedLanguageModel, supervised_cross_entropy
from lorachain.weights.attention_choice import takes_packed_rows
from lorachain.weights.load import plain_model, text_decoder
from lorachain.weights.lora import PeftModel, add_new_lora

TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]


def lora_model(kind: str = "text", dtype: torch.dtype = torch.float32) -> PeftModel:
    """A LoRA with B far from zero, so that gradients reach A too; factors in the base's type, as in training."""
    base = make_text_model(dtype=dtype) if kind == "text" else make_multimodal_model(dtype=dtype)
    model = add_new_lora(
        base, base_path="b", rank=4, alpha=8, dropout=0.0, use_rslora=False, target_modules=TARGETS, seed=0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return model


def rows(count: int, seed: int = 5, prompt: int = 4) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(prompt + 2, 40, (count,), generator=generator).tolist()
    return [
        TokenRow([2, *torch.randint(6, 380, (length,), generator=generator).tolist()], prompt) for length in lengths
    ]


def gradients(model: PeftModel) -> dict[str, Tensor]:
    result = {n: p.grad.float().clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    return result


def reference(model: PeftModel, documents: list[TokenRow]) -> tuple[float, dict[str, Tensor]]:
    """Each row by itself through the model, cross entropy over all of its logits in float32."""
    plain_model(model).set_attn_implementation("sdpa")  # undoes what training changes: attention, norms, MLPs
    for module in model.modules():
        module.__dict__.pop("forward", None)
    total = torch.zeros(())
    for row in documents:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1].float()
        total = total + F.cross_entropy(
            logits[row.supervised_from - 1 :], torch.tensor(row.ids[row.supervised_from :]), reduction="sum"
        )
    total = total / sum(row.supervised for row in documents)
    total.backward()  # type: ignore[no-untyped-call]
    return total.item(), gradients(model)


def relative_error(result: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all gradients as one vector."""
    assert result.keys() == expected.keys()
    a, b = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (result, expected))
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks smaller than the data, so that there are several."""
    monkeypatch.setattr(loss_module, "ROW_BLOCK", 32)
    monkeypatch.setitem(loss_module.VOCABULARY_BLOCK, "cpu", 100)
    monkeypatch.setattr(loss_module, "FUSED_ROW_BLOCK", 48)
    monkeypatch.setattr(loss_module, "FUSED_VOCABULARY_BLOCK", 150)


def ours(
    model: PeftModel, documents: list[TokenRow], layers: LayerKind = "recomputed"
) -> tuple[float, dict[str, Tensor]]:
    """Packs of different lengths, with padding."""
    batch = collate([documents[:2], documents[2:5], documents[5:]], 0)
    normalizer = torch.tensor(float(sum(row.supervised for row in documents)))
    loss = SupervisedLanguageModel(model, layers)(**batch.as_inputs(), normalizer=normalizer)
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("kind", "layers"), [("text", "recomputed"), ("multimodal", "recomputed"), ("text", "fused")])
def test_loss_and_lora_gradients_equal_full_float32_logits(kind: str, layers: LayerKind) -> None:
    model, documents = lora_model(kind), rows(6)
    loss, result = ours(model, documents, layers)
    expected_loss, expected = reference(model, documents)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative_error(result, expected) <= 1e-5


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_bf16_gradients_are_as_close_to_float32_as_those_of_full_logits(kind: str) -> None:
    """A bf16 model is 2 to 3 % off by itself; our loss adds nothing to that."""
    documents = rows(6)
    loss, result = ours(lora_model(kind, torch.bfloat16), documents)
    _, plain = reference(lora_model(kind, torch.bfloat16), documents)
    expected_loss, expected = reference(lora_model(kind, torch.bfloat16).float(), documents)
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    assert relative_error(result, expected) <= 1.15 * relative_error(plain, expected)
    assert relative_error(plain, expected) < 5e-2


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("fused", [False, True])
def test_the_head_in_bf16_is_within_one_percent_of_float32(fused: bool) -> None:
    """The function alone, from the same bf16 hidden states."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(100, 64, generator=generator).bfloat16().requires_grad_()
    weight = (0.2 * torch.randn(1000, 64, generator=generator)).bfloat16()
    targets = torch.randint(0, 1000, (100,), generator=generator)
    total = supervised_cross_entropy(hidden, weight, targets, fused=fused)
    (gradient,) = torch.autograd.grad(total, hidden)
    exact = hidden.detach().float().requires_grad_()
    plain = F.cross_entropy(exact @ weight.float().T, targets, reduction="sum")
    (expected,) = torch.autograd.grad(plain, exact)
    assert total.item() == pytest.approx(plain.item(), rel=1e-3)
    assert (gradient.float() - expected).norm() / expected.norm() <= 1e-2


def test_the_gradient_of_micro_batches_is_that_of_one_large_batch() -> None:
    documents = rows(9)
    model = lora_model()

    def gradient_of(micro_batch_tokens: int) -> tuple[int, dict[str, Tensor]]:
        schedule = BatchSchedule(
            lambda epoch: [[row] for row in documents],
            epochs=1,
            batch_size=9,
            micro_batch_tokens=micro_batch_tokens,
            pad_id=0,
            seed=0,
        )
        step = schedule[0]
        for batch in step["micro_batches"]:
            SupervisedLanguageModel(model)(**batch, normalizer=step["normalizer"]).backward()
        return len(step["micro_batches"]), gradients(model)

    one, expected = gradient_of(100_000)
    many, result = gradient_of(60)
    assert one == 1
    assert many >= 4
    assert relative_error(result, expected) <= 1e-5


@pytest.mark.parametrize("fused", [False, True])
def test_the_function_equals_torch_cross_entropy_for_extreme_logits_too(fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = (30 * torch.randn(300, 16, generator=generator)).requires_grad_()
    weight = 3 * torch.randn(1000, 16, generator=generator)
    targets = torch.randint(0, 1000, (300,), generator=generator)
    total = supervised_cross_entropy(hidden, weight, targets, fused=fused)
    (gradient,) = torch.autograd.grad(total, hidden)
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (expected,) = torch.autograd.grad(plain, hidden)
    torch.testing.assert_close(total, plain, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_without_supervised_tokens_has_no_loss() -> None:
    hidden = torch.zeros(0, 8, requires_grad=True)
    total = supervised_cross_entropy(hidden, torch.randn(50, 8), torch.zeros(0, dtype=torch.int64))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_training_uses_the_attention_norms_and_mlps_that_keep_little(kind: str) -> None:
    """They change no result, only memory and time; a model that is not trained keeps its own."""
    model = lora_model(kind)
    before = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert not takes_packed_rows(text_decoder(model))
    SupervisedLanguageModel(model)
    assert takes_packed_rows(text_decoder(model))
    patched = {name.rpartition(".")[2] for name, module in model.named_modules() if "forward" in vars(module)}
    assert not before
    assert {"mlp", "input_layernorm", "q_norm", "norm"} <= patched
