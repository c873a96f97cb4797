"""How weights can be stored: each way loads to the logits of transformers' own class on correct files, or is refused.

Both classes x key prefixes of transformers 4.49 to 5 (and of PEFT) x single file, shards and index variants x tied,
untied and missing heads x types x ages of the configuration.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from conftest import make_multimodal_model, make_text_model
from lora_making import load_plain, logits
from lorachain.errors import ModelError
from lorachain.weights.attention import use_blockwise_attention
from lorachain.weights.load import load_model

CPU = torch.device("cpu")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Prefixes in memory (transformers 5) -> in the files.
LOADABLE: dict[str, dict[str, dict[str, str | None]]] = {
    "text": {
        "model.": {},
        "none": {"model.": ""},  # a saved Gemma3TextModel
    },
    "multimodal": {
        "5, in memory": {},
        "4.52 to 4.57, in memory": {"model.vision_tower.": "model.vision_tower.vision_model."},
        "up to 4.51 and the hub": {
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.vision_model.",
            "model.multi_modal_projector.": "multi_modal_projector.",
            "lm_head.": "language_model.lm_head.",
        },
        "5, saved": {
            "model.language_model.": "language_model.model.",
            "model.vision_tower.": "vision_tower.",
            "model.multi_modal_projector.": "multi_modal_projector.",
        },
    },
}
REFUSED: dict[str, dict[str, tuple[dict[str, str | None], str]]] = {
    "text": {
        "multimodal, in memory": ({"model.": "model.language_model."}, "weights of the multimodal class"),
        "multimodal, saved": ({"model.": "language_model.model."}, "weights of the multimodal class"),
        "multimodal, twice": ({"model.": "language_model.model.model."}, r"named language_model\.model\.model\.…"),
        "PEFT": ({"model.": "base_model.model.model."}, "saved with PEFT's prefixes"),
        "wrapped": ({"model.": "module.model."}, r"named module\.model\.…"),
    },
    "multimodal": {
        "text": ({"model.language_model.": "model.", "model.vision_tower.": None}, "weights of the text-only class"),
        "PEFT": ({"model.": "base_model.model.model."}, "saved with PEFT's prefixes"),
        "wrapped": ({"model.": "module.model."}, r"named module\.model\."),
    },
}
HEADS = ("tied", "tied, both stored", "tied, head only", "untied")


@cache
def reference(kind: str, dtype: str, tied: bool) -> PreTrainedModel:
    """The model as transformers loads what it saved itself, with lorachain's attention so that logits are equal."""
    model = make_text_model(0, DTYPES[dtype]) if kind == "text" else make_multimodal_model(0, DTYPES[dtype])
    if not tied:
        for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False
        head = torch.empty_like(model.lm_head.weight).normal_(generator=torch.Generator().manual_seed(5)) * 0.2
        model.lm_head.weight = torch.nn.Parameter(head)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = load_plain(Path(folder), kind)
    use_blockwise_attention(loaded)
    return loaded


def renamed(model: PreTrainedModel, prefixes: dict[str, str | None], head: str) -> dict[str, Tensor]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    if head == "tied":
        del tensors["lm_head.weight"]
    elif head == "tied, head only":
        del tensors[embeddings]
    return {new: tensor for name, tensor in tensors.items() if (new := with_prefix(name, prefixes)) is not None}


def with_prefix(name: str, prefixes: dict[str, str | None]) -> str | None:
    for prefix, other in prefixes.items():
        if name.startswith(prefix):
            return None if other is None else other + name.removeprefix(prefix)
    return name


def single(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(folder: Path, tensors: dict[str, Tensor], **index: Any) -> None:
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::3], names[1::3], names[2::3]), start=1):
        file = f"model-{number:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map, **index}
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


FILES: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "single": single,
    "sharded": sharded,
    "index without metadata": lambda folder, tensors: sharded(folder, tensors, metadata=None),
    "index with odd metadata": lambda folder, tensors: sharded(folder, tensors, metadata={"total_size": "no number"}),
}


def save(
    folder: Path,
    model: PreTrainedModel,
    prefixes: dict[str, str | None],
    head: str = "tied",
    files: str = "single",
    age: str = "current",
) -> Path:
    folder.mkdir()
    model.config.save_pretrained(folder)
    FILES[files](folder, renamed(model, prefixes, head))
    AGES[age](folder / "config.json")
    return folder


def as_saved(path: Path) -> None:
    """What transformers 5 writes."""


def as_in_4_49(path: Path) -> None:
    """Rotary settings, layer kinds and type as configurations on the hub have them since March 2025."""
    config = json.loads(path.read_text())
    for section in [config, config.get("text_config", config)]:
        section["torch_dtype"] = section.pop("dtype", None)
    text = config.get("text_config", config)
    assert text.pop("layer_types")[-1] == "full_attention"
    text.pop("rope_parameters")
    text |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "rope_scaling": None}
    text |= {"sliding_window_pattern": 4, "cache_implementation": "hybrid"}
    config["transformers_version"] = "4.50.0.dev0"
    path.write_text(json.dumps(config))


def with_the_text_config_of_4_57(path: Path) -> None:
    config = json.loads(path.read_text())
    text = config.get("text_config", config)
    text |= {"_sliding_window_pattern": 4, "rope_theta": 1_000_000, "rope_local_base_freq": 10_000.0}
    text.pop("rope_parameters")
    config["transformers_version"] = "4.57.1"
    path.write_text(json.dumps(config))


AGES = {"current": as_saved, "4.49": as_in_4_49, "4.57": with_the_text_config_of_4_57}


def check_same(folder: Path, expected: PreTrainedModel, dtype: torch.dtype) -> None:
    model = load_model(folder, CPU, dtype)
    assert type(model) is type(expected)
    states = model.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name].to(dtype)) for name in states[1])
    if expected.dtype == dtype:
        assert torch.equal(logits(model), logits(expected))


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "prefix"), [(kind, prefix) for kind in LOADABLE for prefix in LOADABLE[kind]])
def test_every_known_layout_loads_to_the_same_logits(
    tmp_path: Path, kind: str, prefix: str, head: str, files: str, dtype: str
) -> None:
    model = reference(kind, dtype, tied=head != "untied")
    folder = save(tmp_path / "model", model, LOADABLE[kind][prefix], head, files)
    # fp16 files are computed in bf16 or float32, as everywhere.
    check_same(folder, model, torch.float32 if dtype == "fp16" else DTYPES[dtype])


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize(("kind", "prefix"), [(kind, prefix) for kind in LOADABLE for prefix in LOADABLE[kind]])
def test_configurations_of_every_age_load_to_the_same_logits(tmp_path: Path, kind: str, prefix: str, age: str) -> None:
    model = reference(kind, "bf16", tied=True)
    check_same(save(tmp_path / "model", model, LOADABLE[kind][prefix], age=age), model, torch.bfloat16)


@pytest.mark.parametrize("files", ["single", "sharded"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("kind", "prefix"), [(kind, prefix) for kind in REFUSED for prefix in REFUSED[kind]])
def test_every_other_prefix_is_refused(tmp_path: Path, kind: str, prefix: str, head: str, files: str) -> None:
    prefixes, message = REFUSED[kind][prefix]
    folder = save(tmp_path / "model", reference(kind, "bf16", tied=head != "untied"), prefixes, head, files)
    with pytest.raises(ModelError, match=message):
        load_model(folder, CPU)


@pytest.mark.parametrize("kind", LOADABLE)
def test_an_untied_model_without_its_head_is_refused(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", reference(kind, "bf16", tied=False), {}, head="tied")
    with pytest.raises(ModelError, match=r"1 of its tensors are missing \(first: lm_head\.weight\)"):
        load_model(folder, CPU)


@pytest.mark.parametrize("kind", LOADABLE)
def test_a_tied_model_without_head_and_embeddings_is_refused(tmp_path: Path, kind: str) -> None:
    model = reference(kind, "bf16", tied=True)
    folder = save(tmp_path / "model", model, {}, "tied, head only")
    single(folder, {n: t for n, t in renamed(model, {}, "tied, head only").items() if n != "lm_head.weight"})
    with pytest.raises(ModelError, match=r"2 of its tensors are missing \(first: lm_head\.weight\)"):
        load_model(folder, CPU)


@pytest.mark.parametrize("kind", LOADABLE)
def test_tied_head_and_embeddings_with_different_values_are_refused(tmp_path: Path, kind: str) -> None:
    model = reference(kind, "bf16", tied=True)
    folder = save(tmp_path / "model", model, {})
    single(folder, renamed(reference(kind, "bf16", tied=False), {}, "untied"))
    with pytest.raises(ModelError, match=r"lm_head\.weight and .*embed_tokens\.weight have different values"):
        load_model(folder, CPU)


@pytest.mark.parametrize("kind", LOADABLE)
def test_buffers_that_the_class_computes_may_be_stored(tmp_path: Path, kind: str) -> None:
    model = reference(kind, "bf16", tied=True)
    folder = save(tmp_path / "model", model, {})
    buffers = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.embeddings.position_ids")
    single(folder, renamed(model, {}, "tied") | {name: torch.zeros(3) for name in buffers})
    check_same(folder, model, torch.bfloat16)


def test_the_pooling_head_of_the_vision_tower_may_be_stored_without_being_used(tmp_path: Path) -> None:
    """As in Gemma 3 on the hub, `vision_use_head` is false; text does not pass through the vision tower."""
    model = reference("multimodal", "bf16", tied=True)
    folder = save(tmp_path / "model", model, {})
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(config))
    assert any(".head." in name for name in renamed(model, {}, "tied"))
    assert torch.equal(logits(load_model(folder, CPU)), logits(model))


@pytest.mark.parametrize("kind", LOADABLE)
def test_the_other_classs_configuration_is_refused(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", reference(kind, "bf16", tied=True), {})
    other = "multimodal" if kind == "text" else "text"
    reference(other, "bf16", tied=True).config.save_pretrained(folder)
    with pytest.raises(ModelError, match=f"weights of the {'text-only' if kind == 'text' else 'multimodal'} class"):
        load_model(folder, CPU)
