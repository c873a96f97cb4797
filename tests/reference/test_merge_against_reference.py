"""Merging and composing against `plain_merge` and `plain_compose`, with several blocks in every tensor.

Real models have many blocks per tensor, the tiny ones fewer rows than one block: the blocks are made smaller here.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_making import ATTENTION, LANGUAGE_LINEAR, load_plain, peft_merged, save_adapter_for, save_base
from lorachain.artifacts import MergeReport
from lorachain.artifacts.merging import ComposeReport
from lorachain.weights import blockwise
from lorachain.weights.compose import compose_adapters, truncated
from lorachain.weights.merge import merge_adapter
from lorachain.weights.safetensors_io import open_shards, read_tensor
from lorachain.weights.verify import verify_merge
from reference.plain_compose import Factors, best_of_rank, dense_update, frobenius, spectral
from reference.plain_merge import read_adapter, roundings

SLACK = 1 + 2.0**-12
"""Half-ulps: the float32 sum is itself rounded before it is rounded to 16 bits."""
TINY = settings(max_examples=25, deadline=None, derandomize=True)
DTYPES = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows of 32 columns a block, two at a time within it; a remainder below three rows joins the last."""
    monkeypatch.setattr(blockwise, "_BLOCK_ELEMENTS", 160)
    monkeypatch.setattr(blockwise, "_MIN_ROWS", 3)
    monkeypatch.setattr(blockwise, "_CACHED_ELEMENTS", 64)


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: read_tensor(tensor) for name, tensor in open_shards(folder).tensors.items()}


def round_factors(adapter: Path) -> None:
    """Rounds the factors to 1/512, so that B @ A is exact in float32 and its bits depend on no order of summation."""
    file = adapter / "adapter_model.safetensors"
    save_file({name: (t * 512).round() / 512 for name, t in load_file(file).items()}, file, metadata={"format": "pt"})


def make_merge(folder: Path, kind: str, dtype: torch.dtype) -> tuple[Path, Path, MergeReport]:
    base = save_base(folder / "base", kind, dtype=dtype, shard="30KB")
    adapter = save_adapter_for(base, folder / "adapter", kind, target_modules=LANGUAGE_LINEAR, scale_b=0.3)
    round_factors(adapter)
    return base, adapter, merge_adapter(base, adapter, folder / "merged")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_blocks_have_the_bits_of_pefts_merge(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base, adapter, report = make_merge(tmp_path, kind, dtype)
    tensors = open_shards(base).tensors
    assert all(len(list(blockwise.row_blocks(tensors[target.tensor]))) >= 3 for target in report.targets)
    ours, theirs = load_plain(tmp_path / "merged", kind).state_dict(), peft_merged(base, adapter, kind).state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    verify_merge(tmp_path / "merged")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_many_blocks_are_rounded_once_and_the_report_is_of_the_whole_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    """Sums and the largest error are those of all blocks, each error as exact arithmetic gives it."""
    base, adapter, report = make_merge(tmp_path, "text", dtype)
    before, after, factors = stored(base), stored(tmp_path / "merged"), read_adapter(adapter)
    assert {target.module for target in report.targets} == factors.keys()
    for target in report.targets:
        old, new, (a, b, scale) = before[target.tensor], after[target.tensor], factors[target.module]
        errors = roundings(new, old, a, b, scale)
        largest = max(map(max, errors))
        assert 0.5 < largest <= SLACK
        assert target.max_error_half_ulps == pytest.approx(largest, rel=1e-4)
        update = dense_update([(a, b, scale)])
        assert target.delta_norm == pytest.approx(frobenius(update), rel=1e-6)
        assert target.updates == int((update != 0).sum())
        assert target.lost_to_rounding == int(((update != 0) & (old == new)).sum())


@TINY
@given(
    dtype=DTYPES,
    rows=st.integers(1, 13),
    columns=st.integers(1, 9),
    rank=st.integers(1, 4),
    scale=st.floats(2.0**-8, 4.0),
    cached=st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_a_block_is_rounded_once_and_measured_exactly(
    dtype: torch.dtype, rows: int, columns: int, rank: int, scale: float, cached: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
    b[0] = 0.0  # a row that the adapter leaves alone counts as no update, and as none that was lost
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "_CACHED_ELEMENTS", cached)
        block = blockwise.merge_block(weight, b, a, scale)
    # Against the float32 update, which the block rounds into the weights: one float32 error of the product aside.
    update = (b @ a) * scale
    errors = roundings(block.merged, weight, update, torch.eye(rows), 1.0)
    assert max(map(max, errors)) <= SLACK
    assert block.max_error == pytest.approx(max(map(max, errors)), rel=1e-3, abs=1e-3)
    assert block.square_norm == pytest.approx(float((update.double() ** 2).sum()), rel=1e-5)
    assert block.updates == int((update != 0).sum())
    assert block.lost_to_rounding == int(((block.merged == weight) & (update != 0)).sum())


def test_a_sum_that_float32_rounds_to_a_tie_is_rounded_as_in_peft() -> None:
    """PEFT adds in float32, then rounds to the base's type: bits that are equal to PEFT's need both roundings."""
    weight, b = torch.ones(1, 1, dtype=torch.bfloat16), torch.ones(1, 1)
    a = torch.tensor([[2.0**-8 + 2.0**-30]])  # just above half of bf16's step at 1, which float32 cannot tell from it
    block = blockwise.merge_block(weight, b, a, 1.0)
    assert block.merged.item() == (weight.float() + a).bfloat16().item() == 1.0
    assert (block.max_error, block.updates, block.lost_to_rounding) == (1.0, 1, 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_the_composed_adapter_is_the_sum_of_both_updates(tmp_path: Path, kind: str) -> None:
    """Exact without a rank; with one, the best approximation of that rank, with the errors that the report states."""
    base = save_base(tmp_path / "base", kind)
    first = save_adapter_for(base, tmp_path / "01", kind, target_modules=ATTENTION, use_rslora=True)
    merge_adapter(base, first, tmp_path / "merged")
    second = save_adapter_for(tmp_path / "merged", tmp_path / "02", kind, seed=8, r=6, target_modules=LANGUAGE_LINEAR)

    def compose(name: str, rank: int | None) -> tuple[dict[str, Factors], ComposeReport]:
        report = compose_adapters(
            base, first, second, tmp_path / name, merged_base=tmp_path / "merged", base_name="b", rank=rank
        )
        return read_adapter(tmp_path / name), report

    stages = [read_adapter(first), read_adapter(second)]
    exact, _ = compose("exact", None)
    kept, report = compose("kept", 5)
    assert exact.keys() == kept.keys() == stages[0].keys() | stages[1].keys()
    for layer in report.layers:
        updates = [stage[layer.module] for stage in stages if layer.module in stage]
        expected = dense_update(updates)
        torch.testing.assert_close(dense_update([exact[layer.module]]), expected, rtol=0, atol=1e-5)
        best = best_of_rank(expected, 5)
        torch.testing.assert_close(dense_update([kept[layer.module]]), best, rtol=0, atol=1e-5)
        assert (layer.exact_rank, layer.rank) == (4 + 6 if len(updates) == 2 else 6, 5)
        assert layer.norm == pytest.approx(frobenius(expected), rel=1e-5)
        assert layer.frobenius_error == pytest.approx(frobenius(expected - best), rel=1e-4)
        assert layer.spectral_error == pytest.approx(spectral(expected - best), rel=1e-4)
    assert [layer.module for layer in report.layers] == sorted(kept)
    errors = sum(layer.frobenius_error**2 for layer in report.layers)
    norms = sum(layer.norm**2 for layer in report.layers)
    assert report.relative_error == pytest.approx((errors / norms) ** 0.5)


def test_ranks_at_their_bounds(tmp_path: Path) -> None:
    """One is a rank; the exact rank changes no bit; above a layer's width there is nothing to leave out."""
    base = save_base(tmp_path / "base", "text")
    first = save_adapter_for(base, tmp_path / "01", "text", r=12)
    merge_adapter(base, first, tmp_path / "merged")
    second = save_adapter_for(
        tmp_path / "merged", tmp_path / "02", "text", seed=8, r=10, target_modules=LANGUAGE_LINEAR
    )

    def compose(rank: int | None) -> tuple[ComposeReport, dict[str, Tensor], dict[str, Any]]:
        folder = tmp_path / f"rank-{rank}"
        report = compose_adapters(
            base, first, second, folder, merged_base=tmp_path / "merged", base_name="owner/name", rank=rank
        )
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        config = json.loads((folder / "adapter_config.json").read_text())
        return report, load_file(folder / "adapter_model.safetensors"), config

    report, exact, config = compose(None)
    assert {layer.rank for layer in report.layers} == {10, 22}
    assert report.relative_error == 0
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (22, 22, "owner/name")
    smaller = {layer.module: 10 for layer in report.layers if layer.rank == 10}
    assert config["rank_pattern"] == config["alpha_pattern"] == smaller
    assert sorted(config["target_modules"]) == sorted(layer.module for layer in report.layers)
    assert config["inference_mode"] is True

    report, kept, _ = compose(10)
    for name in exact:
        if any(f"{module}.lora_" in name for module in smaller):
            assert torch.equal(kept[name], exact[name])
    assert {layer.frobenius_error for layer in report.layers if layer.exact_rank == 10} == {0.0}

    report, kept, _ = compose(20)  # v_proj is 16 wide
    narrow = [layer for layer in report.layers if layer.module.endswith("v_proj")]
    assert {(layer.exact_rank, layer.rank, layer.spectral_error) for layer in narrow} == {(22, 16, 0.0)}

    report, kept, _ = compose(1)
    assert {layer.rank for layer in report.layers} == {1}
    assert all(1 in tensor.shape and tensor.dtype == torch.float32 for tensor in kept.values())


@TINY
@given(
    out=st.integers(1, 9),
    width=st.integers(1, 9),
    exact=st.integers(1, 12),
    rank=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_truncation_is_the_best_approximation(out: int, width: int, exact: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(exact, width, generator=generator), torch.randn(out, exact, generator=generator)
    kept_a, kept_b, s = truncated(a, b, rank)
    dense = dense_update([(a, b, 1.0)])
    assert kept_a.dtype == kept_b.dtype == torch.float32
    assert s.dtype == torch.float64
    assert kept_a.shape[0] == kept_b.shape[1] == min(rank, exact, out, width)
    torch.testing.assert_close(dense_update([(kept_a, kept_b, 1.0)]), best_of_rank(dense, rank), rtol=0, atol=1e-5)
    present = torch.linalg.svdvals(dense)[: len(s)]
    torch.testing.assert_close(s[: len(present)], present, rtol=1e-6, atol=1e-9)
    # Split evenly: both factors have the same singular values.
    size_a, size_b = torch.linalg.svdvals(kept_a), torch.linalg.svdvals(kept_b)
    torch.testing.assert_close(size_a, size_b, rtol=1e-4, atol=1e-5)
