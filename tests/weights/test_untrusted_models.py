"""A model directory from anyone: nothing in it is run, applied or substituted, and broken weights are refused."""

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import make_tokenizer
from lora_making import edit_tensors, save_adapter_for, save_base
from lorachain.errors import AdapterError, ModelError
from lorachain.weights.checks import check_finite, check_tokenizer, check_weights
from lorachain.weights.load import comparison_dtype, load_model, load_tokenizer
from lorachain.weights.merge import merge_adapter
from lorachain.weights.model_config import MAX_LAYERS, build_meta_model, read_model_config
from lorachain.weights.safetensors_io import INDEX_FILE, open_shards, weights_sha256

CPU = torch.device("cpu")
SOURCE = Path(__file__).parent.parent.parent / "src" / "lorachain"
WEIGHTS = "model.safetensors"
EVIL = "raise SystemExit('code of the model was run')"


@pytest.fixture(autouse=True)
def no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks on the terminal whether code may be run: one key and it is."""

    def ask(*_: object) -> str:
        raise AssertionError("the user was asked whether code may be run")

    monkeypatch.setattr("builtins.input", ask)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    edit(content)
    path.write_text(json.dumps(content))


def refused(folder: Path, message: str) -> None:
    """By every way to load: weights, structure, hash-time check and merge."""
    for use in (lambda: load_model(folder, CPU), lambda: check_weights(folder)):
        with pytest.raises(ModelError, match=message):
            use()


CODE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
REMOTE = {"AutoModelForCausalLM": "owner/name--evil.Model"}


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(model_type="evil", auto_map=CODE), "a model of type 'evil'; lorachain trains Gemma 3"),
        (lambda c: c.update(model_type="siglip", auto_map=CODE), "a model of type 'siglip'"),
        (lambda c: c.update(model_type=["gemma3"]), "a model of type"),
        (lambda c: c.pop("model_type"), "a model of type None"),
        (lambda c: c.update(auto_map=CODE), "auto_map names Python code"),
        (lambda c: c.update(auto_map=REMOTE), "auto_map names Python code"),
        (lambda c: c.update(vision_config={"model_type": "siglip_vision_model", "auto_map": CODE}), "auto_map names"),
        (lambda c: c.update(vision_config={"model_type": "clip_vision_model"}), "vision_config.model_type is 'clip_"),
        (lambda c: c.update(text_config={"model_type": "llama"}), "text_config.model_type is 'llama'"),
        (lambda c: c.update(text_config=["a"]), "text_config must be an object"),
        (lambda c: c.update(transformers_weights="other.safetensors"), "transformers_weights names the weights"),
        (lambda c: c.update(configuration_files=["config.4.0.0.json"]), "configuration_files names other"),
        (lambda c: c.update(fusion_config={"patch_embeddings": True}), "fusion_config replaces layers"),
        (lambda c: c.update(num_hidden_layers=2_000), f"num_hidden_layers is 2000; allowed: 1 to {MAX_LAYERS:,}"),
        (lambda c: c.update(num_hidden_layers=10**12), "num_hidden_layers is 1000000000000"),
        (lambda c: c.update(num_hidden_layers="4"), "num_hidden_layers is '4'"),
        (lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4}), "is quantized"),
        (lambda c: c.get("text_config", c).update(hidden_size=None), "hidden_size is None; allowed: 1 to"),
        (lambda c: c.get("text_config", c).update(sliding_window=None), "sliding_window is None; allowed: 1 to"),
        (lambda c: c.get("text_config", c).update(sliding_window=-(10**30)), "sliding_window is -1000"),
        (lambda c: c.get("text_config", c).update(query_pre_attn_scalar=-1), "query_pre_attn_scalar is -1; allowed"),
        (lambda c: c.get("text_config", c).update(rms_norm_eps=float("nan")), "rms_norm_eps is nan; allowed"),
        (lambda c: c.get("text_config", c).update(num_attention_heads=0), "num_attention_heads is 0; allowed: 1 to"),
        (lambda c: c.get("text_config", c).update(layer_types=["evil"] * 4), "config.json"),
        (lambda c: c.get("text_config", c).update(hidden_activation="evil"), "config.json describes no model"),
    ],
)
def test_a_configuration_that_asks_for_something_else(
    tmp_path: Path, kind: str, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = save_base(tmp_path / "base", kind)
    (folder / "evil.py").write_text(EVIL)
    edit_json(folder / "config.json", edit)
    refused(folder, message)


@pytest.mark.parametrize("content", ["[]", "null", "3", "", "{", "[" * 100_000, '{"model_type": "gemma3_text"'])
def test_a_configuration_that_is_not_an_object(tmp_path: Path, content: str) -> None:
    folder = save_base(tmp_path / "base", "text")
    (folder / "config.json").write_text(content)
    refused(folder, "config.json")


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_a_configuration_cannot_choose_the_attention(
    tmp_path: Path, kind: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was requested")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", download)
    folder = save_base(tmp_path / "base", kind)

    def edit(config: dict[str, Any]) -> None:
        for section in [config, *(config[name] for name in ("text_config", "vision_config") if name in config)]:
            section[key] = "owner/kernel"

    edit_json(folder / "config.json", edit)
    assert load_model(folder, CPU).config._attn_implementation == "lorachain_blockwise"
    assert build_meta_model(folder).config._attn_implementation == "sdpa"


def test_an_adapter_in_the_directory_of_a_base_is_not_applied(tmp_path: Path) -> None:
    """transformers would apply it without being asked."""
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).rename(base / name)
    refused(base, "both a model .* and an adapter .* Move the adapter's files")


def test_a_distributed_checkpoint_in_the_directory_is_not_loaded(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    refused(folder, "distributed checkpoint")


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text", shard="20KB")
    torch.save({}, folder / "pytorch_model.bin")
    edit_json(folder / INDEX_FILE, lambda index: index["weight_map"].update({"model.norm.weight": "pytorch_model.bin"}))
    refused(folder, r"pytorch_model\.bin'; allowed: a \.safetensors file")
    for path in [*folder.glob("*.safetensors"), folder / INDEX_FILE]:
        path.unlink()
    refused(folder, "contains no weights")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: i.pop("weight_map"), 'must contain an object "weight_map"'),
        (lambda i: i.update(weight_map=[]), 'must contain an object "weight_map"'),
        (lambda i: i.update(weight_map={}), 'must contain an object "weight_map"'),
        (lambda i: i["weight_map"].update({"model.norm.weight": 3}), r"the file of model\.norm\.weight is 3"),
        (lambda i: i["weight_map"].update({"model.norm.weight": None}), "is null, not a name"),
        (lambda i: i["weight_map"].update({"model.norm.weight": ["a"]}), "not a name"),
        (lambda i: i["weight_map"].update({"model.norm.weight": "/etc/passwd"}), "allowed: a .safetensors file in"),
        (lambda i: i["weight_map"].update({"model.norm.weight": "a/../b.safetensors"}), "allowed: a .safetensors"),
        (lambda i: i["weight_map"].update({"model.norm.weight": ".safetensors"}), "which is missing"),
        (lambda i: i["weight_map"].pop("model.norm.weight"), "the index says nothing"),
    ],
)
def test_an_odd_index(tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    folder = save_base(tmp_path / "base", "text", shard="20KB")
    edit_json(folder / INDEX_FILE, edit)
    refused(folder, message)


@pytest.mark.parametrize("content", ["[]", "null", "{", '"a"'])
def test_an_index_that_is_not_an_object(tmp_path: Path, content: str) -> None:
    folder = save_base(tmp_path / "base", "text", shard="20KB")
    (folder / INDEX_FILE).write_text(content)
    refused(folder, INDEX_FILE)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({UP: None}, rf"1 of its tensors are missing \(first: {UP}\).*named model\.… \(51\)"),
        ({UP: UP.replace("up_proj", "upward")}, r"missing .*1 tensors are unknown to it \(first: .*upward"),
        ({UP: lambda t: t[:-1].contiguous()}, r"up_proj.weight has shape \[47, 32\]"),
        ({UP: lambda t: t.T.contiguous()}, r"up_proj.weight has shape \[32, 48\]"),
        ({UP: lambda t: t.to(torch.int8)}, "up_proj.weight is stored as I8"),
        ({UP: lambda t: t.to(torch.float8_e4m3fn)}, "up_proj.weight is stored as F8_E4M3"),
    ],
)
def test_tensors_that_are_not_those_of_the_class(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save_base(tmp_path / "base", "text")
    edit_tensors(folder / WEIGHTS, **change)
    refused(folder, message)


def test_a_tensor_stored_under_two_names(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"norm.weight": tensors["model.norm.weight"].clone()}, folder / WEIGHTS)
    refused(folder, "are the same parameter model.norm.weight")


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_more_or_fewer_layers_than_declared(tmp_path: Path, kind: str) -> None:
    """Too few would be filled with random numbers, too many would be left out."""
    folder = save_base(tmp_path / "base", kind)
    config = json.loads((folder / "config.json").read_text())
    for declared, message in ((5, r"declares 5 decoder layers .* have 4: the tensors .*layers\.4\.… are missing"),
                              (1_000, "declares 1000 decoder layers"),
                              (3, r"declares 3 decoder layers .*layers\.3\.… are not declared")):  # fmt: skip
        text = config.get("text_config", config)
        text |= {"num_hidden_layers": declared, "layer_types": ["full_attention"] * declared}
        (folder / "config.json").write_text(json.dumps(config))
        refused(folder, message)
    if kind == "multimodal":
        config["text_config"] |= {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}
        config["vision_config"]["num_hidden_layers"] = 1_000
        (folder / "config.json").write_text(json.dumps(config))
        refused(folder, "declares 1000 vision layers")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["layers.2.mlp.up_proj", "embed_tokens", "model.norm"])
def test_weights_that_are_not_finite(tmp_path: Path, name: str, dtype: torch.dtype, value: float) -> None:
    folder = save_base(tmp_path / "base", "text", dtype=dtype)

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    edit_tensors(folder / WEIGHTS, **{name: spoil})
    message = rf"model\.safetensors: the tensor .*{name}.* not finite"
    for use in (
        lambda: load_model(folder, CPU),
        lambda: check_finite(folder),
        lambda: weights_sha256(folder, require_finite=True),
    ):
        with pytest.raises(ModelError, match=message):
            use()
    assert weights_sha256(folder)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_weights_that_are_not_finite_in_a_quantized_base(tmp_path: Path, quantization: Any) -> None:
    """Their values in memory are codes: the file is read."""
    folder = save_base(tmp_path / "base", "text")
    edit_tensors(folder / WEIGHTS, **{UP: lambda t: t.index_fill(0, torch.tensor([5]), float("nan"))})
    with pytest.raises(ModelError, match=rf"the tensor {UP} has values that are not finite"):
        load_model(folder, CPU, quantization=quantization)


def test_values_that_become_infinite_in_the_type_of_the_computation(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text", dtype=torch.float32)
    edit_tensors(folder / WEIGHTS, **{UP: lambda t: t.index_fill(0, torch.tensor([5]), 3.4e38)})
    load_model(folder, CPU, torch.float32)
    with pytest.raises(ModelError, match=rf"{UP} has values too large for torch.bfloat16"):
        load_model(folder, CPU, torch.bfloat16)


@pytest.mark.parametrize("where", ["untouched", "target"])
def test_a_base_that_is_not_finite_is_not_merged_into(tmp_path: Path, where: str) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", target_modules=["q_proj"])
    name = "layers.1.mlp.up_proj" if where == "untouched" else "layers.1.self_attn.q_proj"
    edit_tensors(base / WEIGHTS, **{name: lambda t: t.index_fill(0, torch.tensor([5]), float("nan"))})
    with pytest.raises(ModelError, match=rf"the tensor model\.{name}\.weight has values that are not finite"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_tokens_without_an_embedding(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    tokenizer = make_tokenizer()
    load_tokenizer(folder)
    tokenizer.add_tokens([f"용어{i}" for i in range(384 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    check_tokenizer(folder, load_tokenizer(folder))  # exactly as many as there are rows
    tokenizer.add_tokens(["심근경색"])
    tokenizer.save_pretrained(folder)
    message = r"the tokenizer has 385 tokens up to id 384 \('심근경색'\), the embeddings have 384 rows"
    with pytest.raises(ModelError, match=message):
        load_tokenizer(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    load_tokenizer(folder)  # an adapter's directory has no weights to compare with


@pytest.mark.parametrize("length", [[], "long", {"a": 1}])
def test_a_tokenizer_that_fails_only_when_it_is_used(tmp_path: Path, length: object) -> None:
    folder = save_base(tmp_path / "base", "text")
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(model_max_length=length))
    with pytest.raises(ModelError, match="has no usable tokenizer"):
        load_tokenizer(folder)


def test_code_in_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    (folder / "evil.py").write_text(EVIL)
    edit_json(
        folder / "tokenizer_config.json",
        lambda c: c.update(auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]}, tokenizer_class="EvilTokenizer"),
    )
    with pytest.raises(ModelError, match="auto_map names Python code, which lorachain never runs"):
        load_tokenizer(folder)


def test_code_in_the_configuration_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    (folder / "evil.py").write_text(EVIL)
    edit_json(folder / "config.json", lambda c: c.update(model_type="evil", auto_map=CODE))
    load_tokenizer(folder)


def test_links_to_files_elsewhere_are_not_copied_into_a_merge(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    (tmp_path / "secret").write_text("token")
    (base / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"LICENSE is a link to .*secret, outside of the model's directory"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    """snapshots/REVISION/NAME -> ../../blobs/HASH."""
    saved = save_base(tmp_path / "saved", "text")
    adapter = save_adapter_for(saved, tmp_path / "adapter", "text")
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / "a1", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(saved.iterdir())):
        path.rename(blobs / str(number))
        os.symlink(f"../../blobs/{number}", snapshot / path.name)
    merge_adapter(snapshot, adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (snapshot / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32), (torch.float32, torch.float32)],
)
def test_logits_are_never_compared_in_float16(tmp_path: Path, dtype: torch.dtype, expected: torch.dtype) -> None:
    folder = save_base(tmp_path / "base", "text", dtype=dtype)
    edit_json(folder / "config.json", lambda c: c.update(dtype="float16"))  # what a configuration says does not count
    assert comparison_dtype(folder) == expected


def test_what_the_files_hold_is_what_is_loaded(tmp_path: Path) -> None:
    """Also where another file lies beside them."""
    folder = save_base(tmp_path / "base", "text")
    other = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(other, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    weight_map = dict.fromkeys(other, "model-00001-of-00001.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert {tensor.file.name for tensor in open_shards(folder).tensors.values()} == {WEIGHTS}
    loaded = load_model(folder, CPU).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in load_file(folder / WEIGHTS).items())


def test_a_good_model_with_unusual_settings_is_loaded(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", "text")
    edit_json(
        folder / "config.json",
        lambda c: c.update(
            auto_map={}, quantization_config=None, output_attentions=True, return_dict=False, unknown=1, decoder={}
        ),
    )
    assert read_model_config(folder).model_type == "gemma3_text"
    assert load_model(folder, CPU)(input_ids=torch.tensor([[2, 70]])).logits.isfinite().all()


def test_adapters_are_as_readable_as_their_configuration(tmp_path: Path) -> None:
    from lorachain.weights.lora import add_new_lora, save_adapter

    base = save_base(tmp_path / "base", "text")
    settings: dict[str, Any] = {
        "rank": 2,
        "alpha": 4,
        "dropout": 0.0,
        "use_rslora": False,
        "target_modules": ["q_proj"],
        "seed": 0,
    }
    save_adapter(add_new_lora(build_meta_model(base), base_path="x", **settings), tmp_path)
    modes = {name: (tmp_path / name).stat().st_mode for name in ("adapter_model.safetensors", "adapter_config.json")}
    assert len(set(modes.values())) == 1


def test_every_call_that_could_run_code_of_a_model_forbids_it() -> None:
    """`from_pretrained` and `from_config` of anything but PEFT's classes, which have no such option."""
    checked = 0
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called, on = node.func.attr, ast.unparse(node.func.value)
            if called not in ("from_pretrained", "from_config") or on in ("PeftModel", "LoraConfig"):
                continue
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
            checked += 1
    assert checked >= 4


def test_an_adapter_that_is_a_pickle_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "text")
    adapter = save_adapter_for(base, tmp_path / "adapter", "text")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match="cannot be read"):
        merge_adapter(base, adapter, tmp_path / "merged")
