"""A base held in 4 or 8 bits: what is quantized, what it computes, and merging what was trained on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from artifact_making import training_info
from lora_making import IDS, LANGUAGE_LINEAR, edit_tensors, save_adapter_for, save_base
from lorachain.chain.probe import Probe, check_merge_logits
from lorachain.errors import AdapterError, ConfigError, ModelError, WorkspaceError
from lorachain.weights import quantized
from lorachain.weights.compose import compose_adapters
from lorachain.weights.load import decoder_linears, load_model
from lorachain.weights.lora import load_adapter
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import read_merge_report, write_merge_report
from lorachain.weights.quantized import dequantized, trained_in
from lorachain.weights.safetensors_io import open_shards, read_tensor, weights_sha256
from lorachain.weights.verify import verify_merge

CPU = torch.device("cpu")
HELD_IN = ("nf4", "int8")
BOTH = [(kind, quantization) for kind in ("text", "multimodal") for quantization in HELD_IN]


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: read_tensor(tensor) for name, tensor in open_shards(folder).tensors.items()}


def is_language_linear(key: str) -> bool:
    """Independently of the code under test: by the names that both classes have on disk."""
    return "vision" not in key and key.endswith("_proj.weight")


def base_and_adapter(tmp_path: Path, kind: str, **config: Any) -> tuple[Path, Path]:
    base = save_base(tmp_path / "base", kind)
    return base, save_adapter_for(base, tmp_path / "adapter", kind, **{"target_modules": LANGUAGE_LINEAR, **config})


def with_dequantized_weights(base: Path, quantization: Any) -> PreTrainedModel:
    """The plain model with the weights that the quantized one represents."""
    model = load_model(base, CPU)
    for name in decoder_linears(model):
        layer: Any = model.get_submodule(name)
        layer.weight = nn.Parameter(dequantized(layer.weight.data, quantization), requires_grad=False)
    return model


@pytest.mark.parametrize(("kind", "quantization"), BOTH)
def test_the_decoders_linear_layers_are_quantized_and_nothing_else(
    tmp_path: Path, kind: str, quantization: Any
) -> None:
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    base = save_base(tmp_path / "base", kind)
    plain, held = load_model(base, CPU), load_model(base, CPU, quantization=quantization)
    before, after = dict(plain.named_parameters()), dict(held.named_parameters())
    assert before.keys() == after.keys()
    changed = {name for name, parameter in after.items() if not parameter.is_floating_point()}
    assert changed == {name for name in before if is_language_linear(name)}
    assert len(changed) == 28
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - changed)
    head: Any = held.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert head.weight is held.get_input_embeddings().weight
    assert held.dtype == torch.bfloat16
    for name in changed:
        weight: Any = after[name]
        represented = (
            dequantize_4bit(weight.data, weight.quant_state)
            if quantization == "nf4"
            else int8_vectorwise_dequant(weight.CB, weight.SCB).to(torch.bfloat16)
        )
        assert torch.equal(dequantized(before[name].data, quantization), represented)
        assert not torch.equal(before[name], represented)


@pytest.mark.parametrize(("kind", "quantization"), BOTH)
def test_training_after_an_evaluation_has_the_gradients_of_the_dequantized_model(
    tmp_path: Path, kind: str, quantization: Any
) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes 0.50 would repack the weights there, and pass no gradient."""
    base, adapter = base_and_adapter(tmp_path, kind)
    gradients = []
    for model in (load_model(base, CPU, quantization=quantization), with_dequantized_weights(base, quantization)):
        lora = load_adapter(model, adapter, trainable=True)
        with torch.inference_mode():
            lora(input_ids=IDS)
        lora.train()
        lora(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
        gradients.append({n: p.grad for n, p in lora.named_parameters() if p.requires_grad})
    ours, plain = gradients
    assert ours.keys() == plain.keys()
    assert len(ours) == 56
    for name in ours:
        # In bf16 the two sum in different orders (PEFT adds in float32 here, in bf16 there).
        a, b = ours[name], plain[name]
        assert a is not None
        assert b is not None
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("quantization", HELD_IN)
def test_by_default_the_original_weights_are_merged_into(tmp_path: Path, kind: str, quantization: Any) -> None:
    base, adapter = base_and_adapter(tmp_path, kind)
    plain = merge_adapter(base, adapter, tmp_path / "plain")
    report = merge_adapter(base, adapter, tmp_path / "merged", quantization=quantization)
    assert (report.weights, report.quantization, report.dequantized) == ("original", quantization, {})
    assert report.merged_sha256 == plain.merged_sha256 == weights_sha256(tmp_path / "merged")


@pytest.mark.parametrize(("kind", "quantization"), BOTH)
def test_dequantized_weights_are_what_training_multiplied_with_plus_the_update(
    tmp_path: Path, kind: str, quantization: Any
) -> None:
    base, adapter = base_and_adapter(tmp_path, kind, target_modules=r".*(language_model|model)\.layers\..*[qv]_proj")
    report = merge_adapter(base, adapter, tmp_path / "merged", quantization=quantization, weights="dequantized")
    before, after = stored(base), stored(tmp_path / "merged")
    assert report.base_sha256 == weights_sha256(base)
    targets = {target.tensor: target for target in report.targets}
    assert len(targets) == 8
    assert report.dequantized.keys() == {name for name in before if is_language_linear(name)} - targets.keys()
    for name, weight in before.items():
        expected = dequantized(weight, quantization) if is_language_linear(name) else weight
        if name in targets:
            factors = stored_factors(adapter, targets[name].module)
            expected = (expected.float() + 2.0 * factors["B"] @ factors["A"]).to(weight.dtype)
        assert torch.equal(after[name], expected), name
    verify_merge(tmp_path / "merged")


def stored_factors(adapter: Path, module: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    return {side: tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB"}


def test_verify_finds_what_changed_in_dequantized_weights(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path, "text", target_modules=["q_proj"])
    merge_adapter(base, adapter, tmp_path / "merged", quantization="nf4", weights="dequantized")
    verify_merge(tmp_path / "merged")

    def off(tensor: Tensor) -> Tensor:
        tensor.view(torch.int16)[3, 5] += 2
        return tensor

    for name, message in (
        ("layers.1.self_attn.q_proj", r"q_proj\.weight is not base \+ scale\*B@A"),
        ("layers.1.mlp.up_proj", r"up_proj\.weight is not a target of the adapter, but differs"),
    ):
        edit_tensors(tmp_path / "merged" / "model.safetensors", **{name: off})
        with pytest.raises(ModelError, match=message):
            verify_merge(tmp_path / "merged")


@pytest.mark.parametrize("weights", ["original", "dequantized"])
def test_the_report_measures_training_against_both_choices(tmp_path: Path, weights: Any) -> None:
    """Each figure against a computation with plain transformers and PEFT."""
    base, adapter = base_and_adapter(tmp_path, "text")
    merged = tmp_path / "merged"
    report = merge_adapter(base, adapter, merged, quantization="nf4", weights=weights)
    write_merge_report(merged, check_merge_logits(report, base, adapter, merged, CPU, torch.bfloat16))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "merged"}
    report = read_merge_report(merged)
    assert report.quantized_base is not None
    assert list(report.quantized_base) == ["original", "dequantized"]

    rows = Probe(base, CPU, torch.bfloat16)._rows
    held = PeftModel.from_pretrained(load_model(base, CPU, quantization="nf4"), str(adapter))
    trained = last_logits(held, rows)
    for choice, plain in (
        ("original", load_model(base, CPU)),
        ("dequantized", with_dequantized_weights(base, "nf4")),
    ):
        together = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
        expected = last_logits(together, rows)
        measured = report.quantized_base[choice]
        assert measured.rows == len(rows) == 24
        assert measured.mean_abs_logit == pytest.approx(float((expected - trained).abs().mean()), rel=1e-5)
        assert measured.max_abs_logit == pytest.approx(float((expected - trained).abs().max()), rel=1e-5)
        kl = F.kl_div(expected.log_softmax(-1), trained.log_softmax(-1), log_target=True, reduction="batchmean")
        assert measured.mean_kl == pytest.approx(float(kl), rel=1e-3, abs=1e-6)
        if choice == weights == "dequantized":
            assert report.probe == measured
    original, dequantized_ = (report.quantized_base[choice] for choice in ("original", "dequantized"))
    assert dequantized_.mean_kl < 0.2 * original.mean_kl
    assert report.probe is not None
    assert report.probe.mean_kl < 0.2 * original.mean_kl


@torch.inference_mode()
def last_logits(model: nn.Module, rows: list[list[int]]) -> Tensor:
    model.eval()
    return torch.stack([model(input_ids=torch.tensor([row])).logits[0, -1].float() for row in rows])


def test_an_unquantized_merge_says_so(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path, "text")
    report = merge_adapter(base, adapter, tmp_path / "merged")
    checked = check_merge_logits(report, base, adapter, tmp_path / "merged", CPU, torch.bfloat16)
    assert checked.quantized_base is None
    assert checked.as_dict()["quantization"] == "none"


def test_without_bitsandbytes_the_message_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    base, adapter = base_and_adapter(tmp_path, "text")
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package bitsandbytes; install it with .*lorachain\[quantized\]"):
        load_model(base, CPU, quantization="nf4")
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        merge_adapter(base, adapter, tmp_path / "merged", quantization="int8", weights="dequantized")
    assert not (tmp_path / "merged").exists()
    load_model(base, CPU)


def test_dequantized_weights_of_an_unquantized_base_are_refused(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path, "text")
    with pytest.raises(ConfigError, match="the base was not quantized when the adapter was trained"):
        merge_adapter(base, adapter, tmp_path / "merged", weights="dequantized")
    assert not (tmp_path / "merged").exists()


def test_a_model_that_is_itself_quantized_is_refused(tmp_path: Path) -> None:
    base, adapter = base_and_adapter(tmp_path, "text")
    held = load_model(base, CPU, quantization="nf4")
    held.save_pretrained(tmp_path / "quantized")
    for quantization in ("none", "nf4"):
        with pytest.raises(ModelError, match="is quantized; use the original weights"):
            load_model(tmp_path / "quantized", CPU, quantization=quantization)
    with pytest.raises(ModelError, match="is quantized; use the original weights"):
        merge_adapter(tmp_path / "quantized", adapter, tmp_path / "merged")


def test_a_chain_over_dequantized_weights_is_not_composed(tmp_path: Path) -> None:
    base, first = base_and_adapter(tmp_path, "text")
    merged = tmp_path / "merged"
    write_merge_report(merged, merge_adapter(base, first, merged, quantization="nf4", weights="dequantized"))
    second = save_adapter_for(merged, tmp_path / "second", "text", seed=8)
    with pytest.raises(AdapterError, match="would lack what quantizing changed"):
        compose_adapters(base, first, second, tmp_path / "out", merged_base=merged, base_name="x/y")


def test_what_training_recorded_is_read_and_checked(tmp_path: Path) -> None:
    assert trained_in(tmp_path) == "none"
    info = training_info().as_dict()
    for recorded in ("none", "nf4", "int8"):
        info["depends_on"]["settings"]["quantization"] = recorded
        (tmp_path / "training_info.json").write_text(json.dumps(info))
        assert trained_in(tmp_path) == recorded
    info["depends_on"]["settings"]["quantization"] = "fp3"
    (tmp_path / "training_info.json").write_text(json.dumps(info))
    with pytest.raises(WorkspaceError, match=r"quantization' is 'fp3'.*'none', 'nf4' or 'int8'"):
        trained_in(tmp_path)
