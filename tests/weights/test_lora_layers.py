"""Which layers an adapter adapts, with what rank and scale: as in PEFT; and what is refused before PEFT sees it."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from lora_making import ATTENTION, edit_tensors, load_plain, logits, save_adapter_for, save_base
from lorachain.errors import AdapterError
from lorachain.weights.checks import check_weights
from lorachain.weights.load import load_model
from lorachain.weights.lora import load_adapter
from lorachain.weights.lora_file import open_lora
from lorachain.weights.merge import merge_adapter, unchanged_layers
from lorachain.weights.verify import verify_merge

CPU = torch.device("cpu")
FACTORS = "adapter_model.safetensors"
MULTIMODAL = "model.language_model.layers"


def set_config(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def peft_settings(base: Path, adapter: Path, kind: str) -> dict[str, tuple[int, float]]:
    """Rank and scale of each layer, as PEFT sets them when it loads the adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load_plain(base, kind), str(adapter))
    return {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def our_settings(base: Path, adapter: Path) -> dict[str, tuple[int, float]]:
    targets = open_lora(adapter, check_weights(base)).targets
    return {name: (target.rank, target.scale) for name, target in targets.items()}


KEYS = st.sampled_from(
    [
        "q_proj",
        "layers.1.self_attn.q_proj",
        "^model.layers.1.self_attn.q_proj",
        "^language_model.model.layers.1.self_attn.q_proj",
        r"model\.language_model\.layers\.[12]\..*",
        r"language_model\.model\.layers\.[12]\..*",
        r".*\.(0|3)\..*_proj",
        "self_attn.v_proj",
        "model.language_model.layers.2.self_attn.v_proj",
        r"^(?!.*layers\.3).*",
        "nothing",
    ]
)


@settings(max_examples=25, derandomize=True)
@given(
    kind=st.sampled_from(["text", "multimodal"]),
    ranks=st.dictionaries(KEYS, st.integers(1, 6), max_size=3),
    alphas=st.dictionaries(KEYS, st.integers(1, 64), max_size=3),
    rslora=st.booleans(),
    targets=st.sampled_from(
        [ATTENTION, ["q_proj", "v_proj"], "all-linear", r"(?!.*vision).*self_attn\..*_proj", ["q_proj", "no.proj"]]
    ),
    exclude=st.sampled_from([None, r".*layers\.2\..*", ["v_proj"], r".*vision.*"]),
    layers=st.sampled_from([None, [1, 3], 2]),
)
def test_ranks_and_scales_are_pefts(
    kind: str, ranks: dict[str, int], alphas: dict[str, int], rslora: bool, targets: Any, exclude: Any, layers: Any
) -> None:
    if isinstance(targets, str):
        layers = None  # PEFT does not allow both
    assume(exclude != r".*layers\.2\..*" or layers != 2)  # nothing would be left
    # PEFT saves patterns sorted, so training and loading agree only on these.
    ranks, alphas = dict(sorted(ranks.items())), dict(sorted(alphas.items()))
    with TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        base = save_base(folder / "base", kind)
        adapter = save_adapter_for(
            base, folder / "adapter", kind, rank_pattern=ranks, alpha_pattern=alphas, use_rslora=rslora,
            target_modules=targets, exclude_modules=exclude, layers_to_transform=layers,
        )  # fmt: skip
        expected = peft_settings(base, adapter, kind)
        assert our_settings(base, adapter) == expected
        loaded = load_adapter(load_model(base, CPU), adapter, trainable=False)
        assert expected == {
            name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
            for name, module in loaded.named_modules()
            if isinstance(module, LoraLayer)
        }


def test_a_pattern_that_peft_ignores_is_ignored(tmp_path: Path) -> None:
    """The files call the layer by that name, the adapter's own tensors do not: training ran with scale 2."""
    base = save_base(tmp_path / "base", "multimodal")
    pattern = {"^language_model.model.layers.1.self_attn.q_proj": 64}
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal", alpha_pattern=pattern)
    assert {scale for _, scale in our_settings(base, adapter).values()} == {2.0}
    assert our_settings(base, adapter) == peft_settings(base, adapter, "multimodal")


OLD = "language_model.model.layers"


def under_old_names(adapter: Path) -> None:
    """As transformers up to 4.51 named the modules, and so PEFT the tensors."""
    tensors = {name.replace(MULTIMODAL, OLD): t for name, t in load_file(adapter / FACTORS).items()}
    assert all(OLD in name for name in tensors)
    save_file(tensors, adapter / FACTORS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"alpha_pattern": {f"^{OLD}.1.self_attn.q_proj": 64}}, 16.0),
        ({"alpha_pattern": {f"^{MULTIMODAL}.1.self_attn.q_proj": 64}}, 2.0),
        ({"target_modules": r"language_model\.model\.layers\.\d\.self_attn\.[qv]_proj"}, 2.0),
        ({"target_modules": [f"{OLD}.{n}.self_attn.{p}_proj" for n in range(4) for p in "qv"]}, 2.0),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": r"vision_tower\.vision_model\..*"}, 2.0),
    ],
)
def test_an_adapter_under_old_names_is_read_by_its_own_names(
    tmp_path: Path, config: dict[str, object], scale: float
) -> None:
    base = save_base(tmp_path / "base", "multimodal")
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal")
    under_old_names(adapter)
    set_config(adapter, **config)
    layers = our_settings(base, adapter)
    assert len(layers) == 8
    assert layers[f"{MULTIMODAL}.1.self_attn.q_proj"] == (4, scale)
    assert layers[f"{MULTIMODAL}.2.self_attn.q_proj"] == (4, 2.0)


@pytest.mark.parametrize(
    "prefix", ["base_model.model.language_model.model.layers", "language_model.model.layers", MULTIMODAL]
)
def test_an_adapter_under_any_names_is_loaded_as_it_is_merged(tmp_path: Path, prefix: str) -> None:
    base = save_base(tmp_path / "base", "multimodal", dtype=torch.float32)
    adapter = save_adapter_for(
        base, tmp_path / "adapter", "multimodal", alpha_pattern={"layers.1.self_attn.q_proj": 64}
    )
    expected = logits(load_adapter(load_model(base, CPU, torch.float32), adapter, trainable=False))
    tensors = load_file(adapter / FACTORS)
    save_file({n.replace(f"base_model.model.{MULTIMODAL}", prefix): t for n, t in tensors.items()}, adapter / FACTORS)
    loaded = load_adapter(load_model(base, CPU, torch.float32), adapter, trainable=False)
    assert torch.equal(logits(loaded), expected)
    merge_adapter(base, adapter, tmp_path / "merged")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged", CPU, torch.float32)), expected, atol=1e-4, rtol=1e-4
    )


def test_patterns_that_only_the_other_names_match_do_not_count_as_targets(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "multimodal")
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal")
    set_config(adapter, target_modules=r"language_model\.model\.layers\..*[qv]_proj")
    with pytest.raises(
        AdapterError, match=r"adapts 8 layers, first model\.language_model.*target_modules does not name"
    ):
        our_settings(base, adapter)


def test_layers_with_a_zero_b_are_merged_as_unchanged(tmp_path: Path) -> None:
    """An all-linear adapter trained on text: B of the vision tower is zero. The layers' bytes stay, -0.0 too."""
    base = save_base(tmp_path / "base", "multimodal")
    edit_tensors(base / "model.safetensors", **{"vision_tower.encoder.layers.0.self_attn.q_proj.weight": torch.neg})
    adapter = save_adapter_for(base, tmp_path / "adapter", "multimodal", target_modules="all-linear")
    tensors = load_file(adapter / FACTORS)
    vision = [name for name in tensors if "vision" in name and "lora_B" in name]
    save_file(tensors | {name: torch.zeros_like(tensors[name]) for name in vision}, adapter / FACTORS)
    report = merge_adapter(base, adapter, tmp_path / "merged")
    unchanged = {name.removeprefix("base_model.model.").removesuffix(".lora_B.weight") for name in vision}
    assert set(unchanged_layers(report)) == unchanged
    assert len(report.targets) > len(unchanged) > 5
    for target in report.targets:
        assert (target.base_sha256 == target.merged_sha256) == (target.module in unchanged)
    verify_merge(tmp_path / "merged")
    merged = load_plain(tmp_path / "merged", "multimodal").state_dict()
    expected = PeftModel.from_pretrained(load_plain(base, "multimodal"), str(adapter)).merge_and_unload().state_dict()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


@pytest.mark.parametrize("change", ["zero B", "zero alpha"])
def test_an_adapter_that_was_not_trained_is_refused(tmp_path: Path, change: str) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=0.0 if change == "zero B" else 0.05)
    if change == "zero alpha":
        set_config(adapter, lora_alpha=0)
    with pytest.raises(AdapterError, match="in all 8 layers: the adapter was not trained"):
        merge_adapter(base, adapter, tmp_path / "merged")


def test_keys_with_the_name_of_an_adapter(tmp_path: Path) -> None:
    """Saved from state_dict() instead of save_pretrained()."""
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    tensors = {
        name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): tensor
        for name, tensor in load_file(adapter / FACTORS).items()
    }
    save_file(tensors, adapter / FACTORS)
    message = r"contains the name of an adapter \('default'\).*save_pretrained, or remove '\.default'"
    with pytest.raises(AdapterError, match=message):
        merge_adapter(base, adapter, tmp_path / "merged")
    with pytest.raises(AdapterError, match=message):
        load_adapter(load_model(base, CPU), adapter, trainable=False)


HUGE = 20_000_000


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": HUGE}, rf"rank {HUGE} on this model needs"),
        ({"rank_pattern": {"v_proj": HUGE}}, rf"rank {HUGE} on this model needs"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4}, "lacks the tensors of 4 layers"),
        ({"target_modules": ".*"}, "lacks the tensors of"),
        ({"target_modules": None}, "target_modules is null; allowed"),
        ({"target_modules": [3]}, r"target_modules is \[3\]; allowed"),
        ({"target_modules": ["q_proj"] * 10_001}, "allowed: a pattern, or a list of up to 10,000 names"),
        ({"r": 0}, "r is 0; allowed: an integer of at least 1"),
        ({"r": "8"}, 'r is "8"; allowed: an integer'),
        ({"r": True}, "r is true; allowed: an integer"),
        ({"r": 4.0}, r"r is 4\.0; allowed: an integer"),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN; allowed: a finite number"),
        ({"lora_alpha": "x"}, "allowed: a finite number"),
        ({"rank_pattern": [4]}, "allowed: a table of integers"),
        ({"rank_pattern": {"q_proj": -1}}, "allowed: a table of integers"),
        ({"alpha_pattern": {"q_proj": None}}, "allowed: a table of finite numbers"),
        ({"layers_to_transform": "all"}, "allowed: an integer, or a list of integers"),
        ({"layers_to_transform": [0, 1, 2, 3], "layers_pattern": "(a+)+"}, "allowed: names of letters"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules is"),
        ({"layer_replication": [[0, 4], [2, 4]]}, "repeated layers, which lorachain does not support"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config"),
        ({"target_modules": r"((((.*)+)+)+)+\1"}, "back-references"),
        ({"exclude_modules": "("}, "cannot be used"),
        ({"alpha_pattern": {"q_proj)|(": 3, "(": 3}}, "cannot be used"),
    ],
)
def test_what_would_take_memory_time_or_code_is_refused_before_peft_sees_it(
    tmp_path: Path, config: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["q_proj", "v_proj"])
    set_config(adapter, **config)
    model = load_model(base, CPU)
    monkeypatch.setattr(PeftModel, "from_pretrained", must_not_be_called)
    for use in (
        lambda: load_adapter(model, adapter, trainable=False),
        lambda: merge_adapter(base, adapter, tmp_path / "merged"),
    ):
        with pytest.raises(AdapterError, match=message):
            use()


def must_not_be_called(*arguments: object, **options: object) -> None:
    raise AssertionError("PEFT was given an adapter that does not fit")


@pytest.mark.parametrize("pattern", [r"((([a-z._0-9]+)+)+)+!", r"(.*)*[qv]_proj", r"(\w+\.?)+[qv]_proj"])
def test_patterns_that_would_hang_in_re_are_decided(tmp_path: Path, pattern: str) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["q_proj", "v_proj"])
    expected = logits(load_adapter(load_model(base, CPU), adapter, trainable=False))
    set_config(adapter, target_modules=pattern)
    if pattern.endswith("!"):
        with pytest.raises(AdapterError, match="adapts 8 layers"):
            load_adapter(load_model(base, CPU), adapter, trainable=False)
    else:
        assert torch.equal(logits(load_adapter(load_model(base, CPU), adapter, trainable=False)), expected)


@pytest.mark.parametrize("change", [lambda t: t * float("nan"), lambda t: t + float("inf")])
def test_an_adapter_with_values_that_are_not_finite_is_not_loaded(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    edit_tensors(adapter / FACTORS, **{"layers.2.self_attn.q_proj.lora_A": change})
    with pytest.raises(AdapterError, match=r"not finite \(NaN or infinity\) in .*layers\.2\.self_attn\.q_proj\.lora_A"):
        load_adapter(load_model(base, CPU), adapter, trainable=False)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_dora_cannot_be_merged_but_is_loaded_for_scoring(tmp_path: Path, kind: str) -> None:
    base = save_base(tmp_path / "base", kind)
    model = get_peft_model(load_plain(base, kind), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = load_adapter(load_plain(base, kind), tmp_path / "adapter", trainable=False)
    assert torch.equal(logits(loaded), logits(model.eval()))
    with pytest.raises(AdapterError, match="DoRA scales the whole weight"):
        merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
