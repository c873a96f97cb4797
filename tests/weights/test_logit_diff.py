"""Logits of two models on the same prompts: what is measured, and what is refused."""

import pytest
import torch
from peft import PeftModel

from conftest import make_text_model
from lora_making import load_plain, save_adapter_for, save_base
from lorachain.weights.logit_diff import compare_logits, probe_logits
from lorachain.weights.merge import merge_adapter

ROWS = [[2, 70, 101, 33, 8], [2, 300, 261, 45, 90, 41, 55]]
LETTERS = [263, 264, 265, 266, 267]


def test_logits_are_the_models_own_at_each_rows_end() -> None:
    model = make_text_model()
    logits = probe_logits(model, ROWS)
    assert logits.shape == (2, 384)
    for row, last in zip(ROWS, logits, strict=True):
        assert torch.allclose(model(torch.tensor([row])).logits[0, -1], last, atol=1e-5)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_merged_equals_base_with_adapter(tmp_path, kind: str) -> None:  # type: ignore[no-untyped-def]
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
