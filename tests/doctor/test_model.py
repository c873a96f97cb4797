"""A model's files, the model in memory, and a server: each fault is named by its own check."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_text_model
from engine_making import MODEL, tiny_server
from lora_making import save_adapter_for, save_base
from lorachain.artifacts import Check
from lorachain.doctor.findings import Finding, guarded
from lorachain.doctor.model_files import check_tensors, check_tokenizer
from lorachain.doctor.model_run import check_adapter, check_isolation
from lorachain.doctor.serving import Regret, check_server, judge
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_model, load_tokenizer, text_decoder
from lorachain.weights.lora import load_adapter

CPU = torch.device("cpu")


def by_name(findings: Iterator[Finding]) -> dict[str, Check]:
    return {finding.name: finding for finding in findings if isinstance(finding, Check)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base", "text", dtype=torch.float32)


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_a_model_as_it_should_be(tmp_path: Path, kind: str) -> None:
    folder = save_base(tmp_path / kind, kind)
    checks = by_name(check_tensors(folder))
    assert {name: check.state for name, check in checks.items()} == dict.fromkeys(("tensors", "head", "type"), "ok")
    assert ("Gemma3ForCausalLM" if kind == "text" else "Gemma3ForConditionalGeneration") in checks["tensors"].message
    checks = by_name(check_tokenizer(folder))
    assert checks["tokenizer"].state == "ok"
    assert "embeddings of 384 rows" in checks["tokenizer"].message
    assert checks["chat template"].state == "ok"
    assert "<end_of_turn> (id 5), which ends generation too" in checks["chat template"].message
    # The tiny tokenizer, unlike Gemma's, adds no BOS by itself.
    assert (checks["BOS"].state, "by itself none" in checks["BOS"].message) == ("warning", True)


def test_float16_is_refused(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "half", "text", dtype=torch.float16)
    check = by_name(check_tensors(folder))["type"]
    assert check.state == "failure"
    assert "F16" in check.message
    assert "overflows float16" in check.message


def test_a_missing_tensor_is_a_failure(base: Path) -> None:
    edit_json(base / "config.json", num_hidden_layers=5, layer_types=["full_attention"] * 5)
    checks = by_name(guarded("tensors", lambda: check_tensors(base)))
    assert checks["tensors"].state == "failure"
    assert "config.json declares 5 decoder layers" in checks["tensors"].message


def test_a_turn_that_does_not_end_generation(base: Path) -> None:
    edit_json(base / "generation_config.json", eos_token_id=[1])
    check = by_name(check_tokenizer(base))["chat template"]
    assert check.state == "warning"
    assert check.fix == "add 5 to eos_token_id in generation_config.json"


@pytest.fixture
def loaded(base: Path) -> tuple[Any, TokenEncoder]:
    return load_model(base, CPU, torch.float32), TokenEncoder(load_tokenizer(base))


def test_packed_documents_are_isolated(loaded: tuple[Any, TokenEncoder]) -> None:
    model, encoder = loaded
    assert by_name(check_isolation(model, encoder))["attention isolation"].state == "ok"


def test_documents_that_see_each_other(loaded: tuple[Any, TokenEncoder], monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoder = loaded
    decoder = text_decoder(model)
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda position_ids, **inputs: forward(**inputs))
    check = by_name(check_isolation(model, encoder))["attention isolation"]
    assert check.state == "failure"
    assert "see each other" in check.message


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter_for(base, tmp_path / "adapter", "text", scale_b=0.5)


def test_an_adapter_with_and_without_effect(loaded: tuple[Any, TokenEncoder], adapter: Path) -> None:
    model, encoder = loaded
    assert by_name(check_adapter(model, encoder)) == {}
    tuned: Any = load_adapter(model, adapter, trainable=False)
    assert by_name(check_adapter(tuned, encoder))["adapter"].state == "ok"
    for module in tuned.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] = 0.0
    check = by_name(check_adapter(tuned, encoder))["adapter"]
    assert check.state == "failure"
    assert "changes none of 4 prompts' logits" in check.message


def test_a_new_adapter_is_named_untrained(loaded: tuple[Any, TokenEncoder], base: Path, tmp_path: Path) -> None:
    new = save_adapter_for(base, tmp_path / "new", "text", scale_b=0.0)
    check = by_name(check_adapter(load_adapter(loaded[0], new, trainable=False), loaded[1]))["adapter"]
    assert (check.state, "untrained" in check.message) == ("warning", True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """It serves `make_text_model()`, the model of `base`, whatever is asked for."""
    with tiny_server() as (url, _):
        yield url


def served(model: Any, encoder: TokenEncoder, url: str) -> Check:
    return by_name(check_server(model, encoder, url, server_model=MODEL, timeout=60))["server"]


def test_a_server_with_the_same_model(loaded: tuple[Any, TokenEncoder], server: str) -> None:
    check = served(*loaded, server)
    assert check.state == "ok", check.message
    assert "0.00 nats less likely" in check.message


def test_a_server_that_leaves_the_adapter_out(loaded: tuple[Any, TokenEncoder], adapter: Path, server: str) -> None:
    model, encoder = loaded
    check = served(load_adapter(model, adapter, trainable=False), encoder, server)
    assert check.state == "failure"
    assert "the server leaves the adapter out" in check.message


def test_a_server_with_another_model(loaded: tuple[Any, TokenEncoder], server: str) -> None:
    check = served(make_text_model(seed=3), loaded[1], server)
    assert check.state == "failure"
    assert "another model or another chat template" in check.message


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (Regret(0.01, 0.9, 4), "ok", "nats less likely (its base's without the adapter: 0.90)"),
        (Regret(0.01, 0.01, 4), "warning", "answer these prompts alike"),
        (Regret(0.2, None, 4), "warning", "close"),
        (Regret(0.2, 0.6, 4), "warning", "close"),
        (Regret(0.2, 0.01, 4), "failure", "leaves the adapter out"),
        (Regret(0.9, None, 4), "failure", "another model"),
        (Regret(0.0, None, 0), "failure", "answers nothing"),
    ],
)
def test_what_a_regret_means(found: Regret, state: str, says: str) -> None:
    check = judge(found, "http://localhost:1/v1", "m")
    assert check.state == state
    assert says in check.message


def test_an_address_where_nothing_listens(loaded: tuple[Any, TokenEncoder]) -> None:
    findings = guarded("server", lambda: check_server(*loaded, "http://127.0.0.1:9", server_model=None, timeout=5))
    check = by_name(findings)["server"]
    assert check.state == "failure"
    assert "cannot be reached" in check.message


def test_help(lorachain: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = lorachain("doctor", "--help")
    assert code == 0
    assert "Example: lorachain doctor " in out
