"""The merge against PEFT, against the models themselves, and against silent faults of other tools."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from lora_making import (
    ATTENTION,
    LANGUAGE_LINEAR,
    load_plain,
    logits,
    peft_merged,
    save_adapter_for,
    save_base,
)
from lorachain.errors import WorkspaceError
from lorachain.weights.blockwise import half_ulp, merge_block
from lorachain.weights.merge import merge_adapter
from lorachain.weights.merge_report import MERGE_REPORT, read_merge_report
from lorachain.weights.safetensors_io import open_shards, read_tensor, weights_sha256

KINDS = ("text", "multimodal")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: read_tensor(tensor) for name, tensor in open_shards(folder).tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_equal_merged_equal_reloaded_but_not_base(tmp_path: Path, kind: str) -> None:
    base = save_base(tmp_path / "base", kind, dtype=torch.float32)
    adapter = save_adapter_for(base, tmp_path / "adapter", kind, target_modules=LANGUAGE_LINEAR)
    report = merge_adapter(base, adapter, tmp_path / "merged")

    plain = load_plain(base, kind)
    before = logits(plain)
    together = logits(PeftModel.from_pretrained(plain, str(adapter)))
    merged = load_plain(tmp_path / "merged", kind)
    assert (together - before).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), together, atol=2e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_plain(tmp_path / "again", kind)), logits(merged))
    assert report.totals.max_error_half_ulps <= 1
    assert report.totals.lost_to_rounding_share < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bits_are_pefts_where_peft_computes_in_float32(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    base = save_base(tmp_path / "base", kind, dtype=dtype, shard="30KB")
    adapter = save_adapter_for(base, tmp_path / "adapter", kind, target_modules=LANGUAGE_LINEAR, r=8, lora_alpha=16)
    merge_adapter(base, adapter, tmp_path / "merged")

    ours, theirs = load_plain(tmp_path / "merged", kind).state_dict(), peft_merged(base, adapter, kind).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(ours[name].dtype == dtype for name in theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_layout_files_and_untouched_tensors_are_the_bases(tmp_path: Path, kind: str) -> None:
    base = save_base(tmp_path / "base", kind, shard="20KB")
    adapter = save_adapter_for(base, tmp_path / "adapter", kind)
    seen: list[tuple[int, int]] = []
    report = merge_adapter(base, adapter, tmp_path / "merged", on_progress=lambda *at: seen.append(at))

    assert len(open_shards(base).shards) > 3
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names | {MERGE_REPORT}
    assert "chat_template.jinja" in names
    for path in base.glob("*.safetensors"):
        assert open_shards(base).index == open_shards(tmp_path / "merged").index
        assert path.stat().st_size == (tmp_path / "merged" / path.name).stat().st_size
    old, new = stored(base), stored(tmp_path / "merged")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {target.tensor for target in report.targets}
    assert len(changed) == 8
    assert changed | report.untouched.keys() == old.keys()
    total = open_shards(base).total_bytes
    assert seen[-1] == (total, total)


def test_hub_layout_of_the_4b_is_kept(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "multimodal")
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal")
    report = merge_adapter(base, adapter, tmp_path / "merged")
    target = report.targets[0]
    assert target.tensor == "language_model.model.layers.0.self_attn.q_proj.weight"
    assert target.module == "model.language_model.layers.0.self_attn.q_proj"


def test_hub_names_of_the_vision_tower_are_recognized_and_kept(tmp_path: Path) -> None:
    """The hub's files say vision_tower.vision_model.…, transformers 5 writes vision_tower.…: both load, both merge."""
    base = save_base(tmp_path / "base", "multimodal")
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal")
    file = base / "model.safetensors"
    tensors = {n.replace("vision_tower.", "vision_tower.vision_model."): t for n, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert any(name.startswith("vision_tower.vision_model.") for name in report.untouched)
    ours = load_plain(tmp_path / "merged", "multimodal").state_dict()
    theirs = peft_merged(base, adapter, "multimodal").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "prefix", ["base_model.model.language_model.model.", "language_model.model.", "model.language_model."]
)
def test_older_and_bare_adapter_keys_are_recognized(tmp_path: Path, prefix: str) -> None:
    base = save_base(tmp_path / "base", "multimodal")
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal")
    merge_adapter(base, adapter, tmp_path / "expected")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    written = "base_model.model.model.language_model."
    assert all(name.startswith(written) for name in tensors)
    save_file({prefix + name.removeprefix(written): tensor for name, tensor in tensors.items()}, file)
    merge_adapter(base, adapter, tmp_path / "merged")
    assert weights_sha256(tmp_path / "merged") == weights_sha256(tmp_path / "expected")


def test_merged_and_new_lora_equal_merged(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    merge_adapter(base, save_adapter_for(base, tmp_path / "adapter", "text"), tmp_path / "merged")
    merged = load_plain(tmp_path / "merged", "text")
    expected = logits(merged)
    with_new_lora = get_peft_model(merged, LoraConfig(r=4, target_modules=ATTENTION))
    assert torch.equal(logits(with_new_lora), expected)


def test_tied_head_stays_tied_and_untouched(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    merge_adapter(base, save_adapter_for(base, tmp_path / "adapter", "text"), tmp_path / "merged")
    merged = load_plain(tmp_path / "merged", "text")
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert torch.equal(merged.lm_head.weight, load_plain(base, "text").lm_head.weight)


def test_untied_head_is_merged_like_any_linear_layer(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text", tie_word_embeddings=False)
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["lm_head", "q_proj"])
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert "lm_head.weight" in {target.tensor for target in report.targets}
    assert torch.equal(
        load_plain(tmp_path / "merged", "text").lm_head.weight, peft_merged(base, adapter, "text").lm_head.weight
    )


def test_rslora_and_patterns_scale_as_in_peft(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(
        base, tmp_path / "adapter", "text",
        use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 2, r"v_proj": 6},
        alpha_pattern={r".*\.0\.self_attn\.v_proj": 3},
    )  # fmt: skip
    report = merge_adapter(base, adapter, tmp_path / "merged")
    by_module = {target.module: target for target in report.targets}
    assert by_module["model.layers.1.self_attn.q_proj"].rank == 2
    assert by_module["model.layers.1.self_attn.q_proj"].scale == pytest.approx(8 / 2**0.5)
    assert by_module["model.layers.0.self_attn.v_proj"].scale == pytest.approx(3 / 6**0.5)
    theirs = peft_merged(base, adapter, "text").state_dict()
    ours = load_plain(tmp_path / "merged", "text").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_bf16_adapter_is_merged_in_float32(tmp_path: Path) -> None:
    """PEFT without autocast rounds the delta to bf16 first: two roundings instead of one."""
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    file = adapter / "adapter_model.safetensors"
    factors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(factors, file)
    merge_adapter(base, adapter, tmp_path / "merged")
    key = "model.layers.2.self_attn.q_proj"
    a, b = (factors[f"base_model.model.{key}.lora_{side}.weight"].float() for side in "AB")
    expected = (stored(base)[f"{key}.weight"].float() + 2.0 * (b @ a)).bfloat16()
    assert torch.equal(stored(tmp_path / "merged")[f"{key}.weight"], expected)


def test_report_counts_and_measures(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=1e-3)
    report = merge_adapter(base, adapter, tmp_path / "merged", expected_base_sha256=weights_sha256(base))
    assert read_merge_report(tmp_path / "merged") == report
    assert report.base_sha256 == weights_sha256(base)
    assert report.merged_sha256 == weights_sha256(tmp_path / "merged")
    assert report.adapter_tensors == 2 * len(report.targets) == 16

    target = report.targets[0]
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{target.module}.lora_{side}.weight"] for side in "AB")
    delta = 2.0 * (b @ a)
    old, new = stored(base)[target.tensor], stored(tmp_path / "merged")[target.tensor]
    assert target.delta_norm == pytest.approx(float(delta.norm()), rel=1e-5)
    assert target.updates == delta.count_nonzero()
    assert target.lost_to_rounding == ((old == new) & (delta != 0)).sum()
    assert 0.05 < target.lost_to_rounding / target.updates < 1
    content = json.loads((tmp_path / "merged" / MERGE_REPORT).read_text())
    assert content["schema_version"] == 2
    updates, lost = (sum(getattr(t, name) for t in report.targets) for name in ("updates", "lost_to_rounding"))
    assert (content["totals"]["updates"], content["totals"]["lost_to_rounding"]) == (updates, lost)
    assert content["totals"]["lost_to_rounding_share"] == report.totals.lost_to_rounding_share == lost / updates


def test_hash_is_of_content_not_of_sharding(tmp_path: Path) -> None:
    single, sharded = save_base(tmp_path / "a", "text"), save_base(tmp_path / "b", "text", shard="20KB")
    other = save_base(tmp_path / "c", "text", dtype=torch.float16)
    assert weights_sha256(single) == weights_sha256(sharded) != weights_sha256(other)


def test_an_existing_directory_is_never_overwritten(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    (tmp_path / "merged").mkdir()
    with pytest.raises(WorkspaceError, match="exists"):
        merge_adapter(base, save_adapter_for(base, tmp_path / "adapter", "text"), tmp_path / "merged")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_ulp_is_half_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, -3.0, 0.0123, 250.0, 6.2e-5], dtype=dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    following = (values.view(bits) + 1).view(dtype)
    assert torch.equal(half_ulp(values).double(), (following.double() - values.double()).abs() / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_ulp_of_zero_and_of_subnormal_numbers_is_that_of_the_smallest_normal_one(dtype: torch.dtype) -> None:
    """Never zero, which errors are divided by: in float32, half of the smallest step underflows."""
    info = torch.finfo(dtype)
    values = torch.tensor([0.0, -0.0, info.smallest_normal / 2, info.smallest_normal], dtype=dtype)
    assert half_ulp(values).double().tolist() == [info.smallest_normal * info.eps / 2] * 4


def test_a_delta_below_half_an_ulp_is_lost_and_one_above_is_not() -> None:
    weight = torch.ones(1, 2, dtype=torch.bfloat16)
    half = 2.0**-8
    block = merge_block(weight, torch.tensor([[1.0]]), torch.tensor([[half * 0.9, half * 1.1]]), 1.0)
    assert block.merged.tolist() == [[1.0, 1.0078125]]
    assert (block.updates, block.lost_to_rounding) == (2, 1)
    assert block.max_error == pytest.approx(0.9, abs=1e-3)
