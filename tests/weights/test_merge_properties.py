"""Over ranks, alphas, targets, shard sizes, types and both classes: the merge equals PEFT's, and verifies."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_making import load_plain, peft_merged, save_adapter_for, save_base
from lorachain.weights.blockwise import half_ulp, merge_block
from lorachain.weights.merge import merge_adapter
from lorachain.weights.verify import verify_merge

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = st.sampled_from([torch.bfloat16, torch.float16, torch.float32])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["text", "multimodal"]),
    dtype=DTYPES,
    rank=st.integers(1, 20),
    alpha=st.integers(1, 64),
    rslora=st.booleans(),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=7, unique=True),
    shard_kb=st.sampled_from([15, 40, 100_000]),
    scale_b=st.floats(1e-3, 1.0),
    tied=st.booleans(),
)
def test_merged_is_pefts_merge_and_verifies(
    kind: str, dtype: torch.dtype, rank: int, alpha: int, rslora: bool, names: list[str], shard_kb: int, scale_b: float,
    tied: bool,
) -> None:  # fmt: skip
    options = {} if kind == "multimodal" else {"tie_word_embeddings": tied}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = save_base(folder / "base", kind, dtype=dtype, shard=f"{shard_kb}KB", **options)
        adapter = save_adapter_for(
            base, folder / "adapter", kind, r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=names,
            exclude_modules=r".*vision_tower.*", scale_b=scale_b,
        )  # fmt: skip
        report = merge_adapter(base, adapter, folder / "merged")
        assert len(report.targets) == 4 * len(names)
        assert report.totals.max_error_half_ulps <= 1 + 2**-12
        ours = load_plain(folder / "merged", kind).state_dict()
        theirs = peft_merged(base, adapter, kind).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        verify_merge(folder / "merged")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dtype=DTYPES, exponent=st.integers(-8, 3))
def test_a_block_is_rounded_once(seed: int, dtype: torch.dtype, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 7, generator=generator).to(dtype)
    a, b = torch.randn(3, 7, generator=generator), torch.randn(5, 3, generator=generator)
    scale = 2.0**exponent
    block = merge_block(weight, b, a, scale)
    exact = weight.double() + scale * (b @ a).double()
    assert ((block.merged.double() - exact).abs() <= half_ulp(block.merged).double() * (1 + 2**-12)).all()
    assert block.max_error <= 1 + 2**-12
    assert block.lost_to_rounding == int((block.merged == weight).sum())
