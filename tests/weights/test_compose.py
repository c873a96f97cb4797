"""The chain as one adapter: base + composed adapter equals base + stage 01, merged, + stage 02."""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file

from lora_making import ATTENTION, LANGUAGE_LINEAR, load_plain, logits, save_adapter_for, save_base
from lorachain.errors import AdapterError, ConfigError, WorkspaceError
from lorachain.weights.compose import COMPOSE_REPORT, compose_adapters, truncated
from lorachain.weights.merge import merge_adapter


@dataclass
class Chain:
    """Stage 01 on the base (rsLoRA, rank 4), merged, and stage 02 on that (more layers, rank 6, a pattern)."""

    kind: str
    base: Path
    first: Path
    merged: Path
    second: Path

    def compose(self, out: Path, rank: int | None = None) -> Path:
        compose_adapters(
            self.base, self.first, self.second, out, merged_base=self.merged, base_name=str(self.base), rank=rank
        )
        return out


def make_chain(folder: Path, kind: str) -> Chain:
    base = save_base(folder / "base", kind, dtype=torch.float32)
    first = save_adapter_for(base, folder / "01", kind, use_rslora=True, lora_alpha=5, target_modules=ATTENTION)
    merge_adapter(base, first, folder / "merged")
    second = save_adapter_for(
        folder / "merged", folder / "02", kind, seed=8, r=6, lora_alpha=9, rank_pattern={"o_proj": 2},
        target_modules=LANGUAGE_LINEAR,
    )  # fmt: skip
    return Chain(kind, base, first, folder / "merged", second)


@pytest.fixture(params=["text", "multimodal"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return make_chain(tmp_path, request.param)


def with_adapter(base: Path, adapter: Path, kind: str) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(load_plain(base, kind), str(adapter)))


def test_composed_on_the_base_equals_stage_02_on_its_merged_base(chain: Chain, tmp_path: Path) -> None:
    composed = with_adapter(chain.base, chain.compose(tmp_path / "composed"), chain.kind)
    sequential = with_adapter(chain.merged, chain.second, chain.kind)
    torch.testing.assert_close(composed, sequential, atol=3e-4, rtol=1e-4)
    assert (composed - logits(load_plain(chain.merged, chain.kind))).abs().max() > 0.1
    assert (composed - with_adapter(chain.base, chain.first, chain.kind)).abs().max() > 0.1


def test_the_composed_adapter_merged_is_the_same_model(chain: Chain, tmp_path: Path) -> None:
    merge_adapter(chain.base, chain.compose(tmp_path / "composed"), tmp_path / "whole")
    merge_adapter(chain.merged, chain.second, tmp_path / "stepwise")
    whole, stepwise = (load_plain(tmp_path / name, chain.kind).state_dict() for name in ("whole", "stepwise"))
    for name in whole:
        torch.testing.assert_close(whole[name], stepwise[name], atol=1e-6, rtol=1e-5)


def test_configuration_is_plain_and_its_scale_is_one(chain: Chain, tmp_path: Path) -> None:
    composed = chain.compose(tmp_path / "composed")
    config = json.loads((composed / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 10
    assert not config["use_rslora"]
    assert config["rank_pattern"] == config["alpha_pattern"]
    tensors = load_file(composed / "adapter_model.safetensors")
    ranks = {
        name.split(".lora_A")[0].removeprefix("base_model.model."): len(t)
        for name, t in tensors.items()
        if "A." in name
    }
    assert {module: rank for module, rank in ranks.items() if rank != 10} == config["rank_pattern"]
    assert sorted(ranks) == config["target_modules"]
    assert set(ranks.values()) == {10, 6, 2}


def test_it_loads_in_plain_peft_without_lorachain(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "multimodal")
    composed = chain.compose(tmp_path / "composed")
    expected = with_adapter(chain.base, composed, chain.kind)
    torch.save(expected, tmp_path / "expected.pt")
    script = (
        "import sys, warnings, torch\n"
        "from peft import PeftConfig, PeftModel\n"
        "from transformers import AutoModelForImageTextToText\n"
        "folder, expected = sys.argv[1:]\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "base = AutoModelForImageTextToText.from_pretrained(\n"
        "    PeftConfig.from_pretrained(folder).base_model_name_or_path, dtype=torch.float32)\n"
        "model = PeftModel.from_pretrained(base, folder).eval()\n"
        "ids = torch.tensor([[2, 70, 101, 33, 8, 300, 261, 45, 90]])\n"
        "assert torch.allclose(model(input_ids=ids).logits, torch.load(expected), atol=1e-5)\n"
        "assert 'lorachain' not in sys.modules\n"
    )
    arguments = [sys.executable, "-c", script, str(composed), str(tmp_path / "expected.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_recompression_error_is_what_the_report_says(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "text")
    exact = load_file(chain.compose(tmp_path / "exact") / "adapter_model.safetensors")
    kept = load_file(chain.compose(tmp_path / "kept", rank=3) / "adapter_model.safetensors")
    report = json.loads((tmp_path / "kept" / COMPOSE_REPORT).read_text())
    left_out = whole = 0.0
    for layer in report["layers"]:
        a, b = f"base_model.model.{layer['module']}.lora_A.weight", f"base_model.model.{layer['module']}.lora_B.weight"
        full = exact[b].double() @ exact[a].double()
        error = full - kept[b].double() @ kept[a].double()
        assert layer["rank"] == len(kept[a]) <= 3
        assert torch.linalg.matrix_norm(error) == pytest.approx(layer["frobenius_error"], rel=1e-4, abs=1e-6)
        assert torch.linalg.matrix_norm(error, 2) == pytest.approx(layer["spectral_error"], rel=1e-4, abs=1e-6)
        assert torch.linalg.matrix_norm(full) == pytest.approx(layer["norm"], rel=1e-5)
        left_out, whole = left_out + layer["frobenius_error"] ** 2, whole + layer["norm"] ** 2
    assert report["relative_error"] == pytest.approx(math.sqrt(left_out / whole))
    assert 0.05 < report["relative_error"] < 1


def test_a_rank_that_is_high_enough_leaves_the_factors_unchanged(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "text")
    exact = (chain.compose(tmp_path / "exact") / "adapter_model.safetensors").read_bytes()
    assert (chain.compose(tmp_path / "same", rank=10) / "adapter_model.safetensors").read_bytes() == exact
    assert json.loads((tmp_path / "same" / COMPOSE_REPORT).read_text())["relative_error"] == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(out=st.integers(1, 12), inner=st.integers(1, 12), full=st.integers(1, 16), rank=st.integers(1, 16))
def test_truncation_equals_the_dense_svd(out: int, inner: int, full: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(out * 1000 + inner * 100 + full)
    a, b = torch.randn(full, inner, generator=generator), torch.randn(out, full, generator=generator)
    kept_a, kept_b, singular = truncated(a, b, rank)
    u, s, vt = torch.linalg.svd(b.double() @ a.double(), full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    torch.testing.assert_close(kept_b.double() @ kept_a.double(), best, atol=1e-4, rtol=1e-4)
    count = min(len(s), len(singular))
    torch.testing.assert_close(singular[:count], s[:count], atol=1e-4, rtol=1e-4)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["text", "multimodal"]),
    ranks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    alphas=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rslora=st.tuples(st.booleans(), st.booleans()),
    names=st.tuples(*[st.lists(st.sampled_from(["q_proj", "v_proj", "down_proj"]), min_size=1, unique=True)] * 2),
)
def test_composing_equals_merging_one_after_the_other(
    kind: str,
    ranks: tuple[int, int],
    alphas: tuple[int, int],
    rslora: tuple[bool, bool],
    names: tuple[list[str], list[str]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at = save_base(folder / "base", kind, dtype=torch.float32)
        adapters = []
        for stage in range(2):
            adapters.append(
                save_adapter_for(
                    at, folder / f"0{stage}", kind, seed=stage, r=ranks[stage], lora_alpha=alphas[stage],
                    use_rslora=rslora[stage], target_modules=names[stage], exclude_modules=r".*vision_tower.*",
                )
            )  # fmt: skip
            merge_adapter(at, adapters[-1], folder / f"merged{stage}")
            at = folder / f"merged{stage}"
        chain = Chain(kind, folder / "base", adapters[0], folder / "merged0", adapters[1])
        merge_adapter(folder / "base", chain.compose(folder / "composed"), folder / "whole")
        whole, stepwise = (load_plain(path, kind).state_dict() for path in (folder / "whole", at))
        for key in whole:
            torch.testing.assert_close(whole[key], stepwise[key], atol=1e-5, rtol=1e-5)


def test_a_second_adapter_from_another_chain_is_refused(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "text")
    other = save_adapter_for(chain.base, tmp_path / "other", "text", seed=99)
    chain.first = other
    with pytest.raises(AdapterError, match="weights that it was not trained on"):
        chain.compose(tmp_path / "composed")
    assert not (tmp_path / "composed").exists()


def test_another_base_is_refused(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "text")
    chain.base = save_base(tmp_path / "bf16", "text")
    with pytest.raises(AdapterError, match="names other hashes"):
        chain.compose(tmp_path / "composed")


def test_rank_zero_and_an_existing_directory_are_refused(tmp_path: Path) -> None:
    chain = make_chain(tmp_path, "text")
    with pytest.raises(ConfigError, match="rank is 0"):
        chain.compose(tmp_path / "composed", rank=0)
    with pytest.raises(WorkspaceError, match="exists"):
        chain.compose(tmp_path / "merged")
