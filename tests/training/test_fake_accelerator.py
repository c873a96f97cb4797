"""One training step at the sizes of MedGemma on a fake GPU: masks, launches, bytes, devices, and what is kept.

A tensor on the wrong device fails here, too: PyTorch's fake tensors refuse to mix devices. Six layers are one period of
a model (five with a window, one without); launches and bytes of all others repeat theirs.
"""

from dataclasses import replace

import pytest

from fake_gpu import StepCounts
from gpu_making import Case, count_steps
from lorachain.weights.packed_attention import VARLEN

PACKED, LONG = (Case("medgemma-4b", 4096, layers=6, documents=n, attention=VARLEN) for n in (8, 1))
LARGE = Case("medgemma-27b", 3072, layers=6, attention=VARLEN)
FUSED, FUSED_LARGE = (replace(case, fused=True) for case in (PACKED, LARGE))
RECOMPUTED = [replace(case, supervised=16, recompute=True) for case in (PACKED, FUSED_LARGE)]
MASKED = [Case(case.shape, case.tokens, 6) for case in (PACKED, LARGE)]
TRAINING = [PACKED, LONG, LARGE, FUSED, FUSED_LARGE, *RECOMPUTED, *MASKED]
SCORING = Case("medgemma-4b", 4096, 6, attention=VARLEN, scoring=True)
MASKED_SCORING = Case("medgemma-4b", 4096, 6, documents=1, scoring=True)
SAMPLING = Case("medgemma-4b", 64 * 40, 2, sampling=64)
CASES = [*TRAINING, SCORING, MASKED_SCORING, SAMPLING]


@pytest.fixture(scope="module")
def counts() -> dict[Case, StepCounts]:
    return dict(zip(CASES, count_steps(CASES), strict=True))


@pytest.mark.parametrize("case", [PACKED, LONG, LARGE, FUSED, FUSED_LARGE, *RECOMPUTED])
def test_attention_by_bounds_makes_no_mask(case: Case, counts: dict[Case, StepCounts]) -> None:
    step = counts[case]
    assert step.masks == []
    forward = 12 if case.recompute else 6  # two launches each
    assert step.operators["torch_attn._varlen_attn"] == 2 * forward
    assert step.operators["torch_attn._varlen_attn_backward"] == 5 * 6
    assert not [name for name in step.operators if "scaled_dot_product" in name]


def test_launches_and_bytes_stay_within_their_budget(counts: dict[Case, StepCounts]) -> None:
    """Of six layers and the loss; docs/gpu.md has those of whole models."""
    assert counts[FUSED].launches < 650
    assert counts[FUSED].elementwise_bytes < 16e9
    assert counts[FUSED_LARGE].launches < 650
    assert counts[FUSED_LARGE].elementwise_bytes < 20e9


def test_the_fused_softmax_takes_each_logit_once(counts: dict[Case, StepCounts]) -> None:
    """Two blocks of rows, eight of the vocabulary, and nothing else that is as large as the logits."""
    for case in (FUSED, FUSED_LARGE):
        assert counts[case].operators["lorachain.online_softmax_"] == 2 * 8


def test_layers_that_are_not_fused_need_several_times_as_much(counts: dict[Case, StepCounts]) -> None:
    """Otherwise the counts above would miss something."""
    for fused, plain in ((FUSED, PACKED), (FUSED_LARGE, LARGE)):
        assert counts[plain].launches > 3 * counts[fused].launches
        assert counts[plain].elementwise_bytes > 4 * counts[fused].elementwise_bytes


def test_attention_by_masks_makes_them(counts: dict[Case, StepCounts]) -> None:
    """Otherwise the test above would not notice one."""
    for case in MASKED:
        assert len(counts[case].masks) > 6
    assert len(counts[MASKED_SCORING].masks) > 6


def test_scoring_makes_no_mask_behind_a_prefix_either(counts: dict[Case, StepCounts]) -> None:
    step = counts[SCORING]
    assert step.masks == []
    assert step.operators["torch_attn._varlen_attn"] == 2 * 6 * 3  # the prefix, few tokens read, all tokens read
    assert not [name for name in step.operators if "scaled_dot_product" in name]


def test_sampling_waits_for_the_device_once_a_step(counts: dict[Case, StepCounts]) -> None:
    """64 sequences take 40 steps; each step's ids come back in one transfer, and nothing else does."""
    assert counts[SAMPLING].to_host == ["tolist (64,)"] * 40


@pytest.mark.parametrize(
    "case", TRAINING, ids=lambda case: f"{case.shape} {case.documents} {case.attention} {case.fused} {case.recompute}"
)
def test_the_calculation_is_what_is_kept(case: Case, counts: dict[Case, StepCounts]) -> None:
    step = counts[case]
    assert step.estimated_bytes == pytest.approx(step.kept_bytes, rel=0.05)
