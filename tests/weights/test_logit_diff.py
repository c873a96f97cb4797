"""Logits of two models on the same prompts: what is measured, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from conftest import make_text_model, make_tokenizer
from lora_making import load_plain, save_adapter_for, save_base
from lorachain.chain.probe import check_composition_logits, merge_check
from lorachain.errors import ModelError
from lorachain.weights.compose import compose_adapters
from lorachain.weights.load import comparison_dtype
from lorachain.weights.logit_diff import (
    MEAN_KL_LIMITS,
    check_logit_diff,
    compare_logits,
    mean_kl_limit,
    probe_logits,
)
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import MERGE_REPORT, read_merge_report

ROWS = [[2, 70, 101, 33, 8], [2, 300, 261, 45, 90, 41, 55]]
CPU = torch.device("cpu")
LETTERS = [263, 264, 265, 266, 267]


def test_logits_are_the_models_own_at_each_rows_end() -> None:
    model = make_text_model()
    logits = probe_logits(model, ROWS)
    assert logits.shape == (2, 384)
    for row, last in zip(ROWS, logits, strict=True):
        assert torch.allclose(model(torch.tensor([row])).logits[0, -1], last, atol=1e-5)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_merged_equals_base_with_adapter(tmp_path: Path, kind: str) -> None:
    base = save_base(tmp_path / "base", kind, dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", kind)
    merge_adapter(base, adapter, tmp_path / "merged")
    plain = probe_logits(load_plain(base, kind), ROWS)
    together = probe_logits(PeftModel.from_pretrained(load_plain(base, kind), str(adapter)), ROWS)
    merged = probe_logits(load_plain(tmp_path / "merged", kind), ROWS)
    diff = compare_logits(together, merged, LETTERS)
    assert diff["rows"] == 2
    assert diff["max_abs_logit"] < 1e-3
    assert diff["max_kl"] < 1e-6
    assert diff["letter_agreement"] == diff["argmax_agreement"] == 1
    assert compare_logits(plain, merged, LETTERS)["max_kl"] > 1e-4


def test_measures_by_hand() -> None:
    a = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    b = torch.log(torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]))
    diff = compare_logits(a, b, [0, 1])
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.25 * torch.log(torch.tensor(0.5))
    assert diff["max_kl"] == pytest.approx(float(expected))
    assert diff["mean_kl"] == pytest.approx(float(expected) / 2)
    assert diff["argmax_agreement"] == 0.5
    assert diff["max_abs_logit"] == pytest.approx(0.6931472)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_logits(torch.zeros(2, 3), torch.zeros(2, 4), [0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_logit_that_is_not_finite_is_an_error_that_names_its_model(value: float, side: int) -> None:
    pair = torch.zeros(2, 3, 4)
    pair[side, 1, 2] = value
    names = ("base + adapter", "the merged model")
    with pytest.raises(
        ModelError, match=rf"logits of {names[side].replace('+', '.')} are not finite .* in 1 of 3 probe"
    ):
        compare_logits(pair[0], pair[1], [0, 1], names)


@pytest.mark.parametrize(
    ("dtype", "quantization", "passes", "fails"),
    [
        (torch.bfloat16, "none", 0.0041, 0.08),
        (torch.float32, "none", 0.00015, 0.013),
        (torch.bfloat16, "nf4", 0.0073, 0.08),
        (torch.bfloat16, "int8", 0.030, 0.5),
    ],
)
def test_limits_lie_between_measured_rounding_and_measured_faults(
    dtype: torch.dtype, quantization: str, passes: float, fails: float
) -> None:
    limit = mean_kl_limit(dtype, quantization)  # type: ignore[arg-type]
    diff = {"rows": 24, "max_abs_logit": 1.0}
    check_logit_diff({**diff, "mean_kl": passes}, limit, "two models")
    for value in (fails, float("nan")):
        with pytest.raises(ModelError, match=r"two models differ by more than rounding: mean KL .* 24 probe rows"):
            check_logit_diff({**diff, "mean_kl": value}, limit, "two models")


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_merge_is_checked_before_it_gets_its_name(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base = save_base(tmp_path / "base", kind, dtype=dtype)
    adapter = save_adapter_for(base, tmp_path / "adapter", kind)
    compute = comparison_dtype(base)
    report = merge_adapter(base, adapter, tmp_path / "merged", check=merge_check(base, adapter, CPU, compute))
    assert report.probe is not None
    assert report.probe.rows == 24
    assert report.probe.mean_kl < MEAN_KL_LIMITS[compute] / 10
    assert read_merge_report(tmp_path / "merged") == report


def test_a_merge_that_is_not_base_and_adapter_leaves_nothing_behind(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    other = save_adapter_for(base, tmp_path / "other", "text", seed=8)
    with pytest.raises(ModelError, match=r"base \+ adapter and the merged model differ by more than rounding"):
        merge_adapter(base, adapter, tmp_path / "merged", check=merge_check(base, other, CPU, torch.bfloat16))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter", "other"}


def save_base_that_overflows_in_fp16(folder: Path) -> Path:
    model = make_text_model(0, torch.float16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "post_feedforward_layernorm" in name or "post_attention_layernorm" in name:
                parameter.fill_(60_000.0)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_base_in_float16_is_compared_in_float32(tmp_path: Path) -> None:
    """In float16 every logit is NaN, and all comparisons with NaN agreed."""
    base = save_base_that_overflows_in_fp16(tmp_path / "base")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    overflowing = probe_logits(load_plain(base, "text"), ROWS)
    with pytest.raises(ModelError, match=r"the logits of the first model are not finite .* in 2 of 2"):
        compare_logits(overflowing, overflowing, LETTERS)
    merged = tmp_path / "merged"
    report = merge_adapter(base, adapter, merged, check=merge_check(base, adapter, CPU, comparison_dtype(base)))
    assert report.probe is not None
    assert report.probe.mean_kl < 1e-5
    text = (merged / MERGE_REPORT).read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_an_exact_composition_has_a_limit_and_a_recompressed_one_has_none(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text", dtype=torch.float32)
    first = save_adapter_for(base, tmp_path / "01", "text")
    merge_adapter(base, first, tmp_path / "merged")
    second = save_adapter_for(tmp_path / "merged", tmp_path / "02", "text", seed=8)
    for name, rank in (("exact", None), ("short", 1)):
        compose_adapters(
            base, first, second, tmp_path / name, merged_base=tmp_path / "merged", base_name="x", rank=rank
        )
    chain = (tmp_path / "merged", second, CPU, torch.float32)
    assert check_composition_logits(base, tmp_path / "exact", *chain).in_dtype.mean_kl < 1e-6
    assert check_composition_logits(base, tmp_path / "short", *chain, exact=False).in_dtype.mean_kl > 0.005
    with pytest.raises(ModelError, match=r"merged base \+ second adapter and base \+ composed adapter differ"):
        check_composition_logits(base, tmp_path / "short", *chain)
