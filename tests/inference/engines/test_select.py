"""Engines from options; vLLM's arguments by a module in its place, as it cannot be installed beside the tests."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine_making import MODEL, collect, exam_requests, tiny_server
from lora_making import save_adapter_for
from lorachain.errors import ConfigError, EngineError
from lorachain.inference.engines.base import Completion, EngineIdentity, Sampling
from lorachain.inference.engines.http_json import parse_address
from lorachain.inference.engines.local import LocalEngine
from lorachain.inference.engines.openai_server import OpenAiEngine
from lorachain.inference.engines.select import (
    EngineModel,
    EngineOptions,
    api_key_for,
    check_engine_options,
    open_engine,
)
from lorachain.inference.engines.vllm import VllmEngine
from lorachain.redaction import without_tokens
from lorachain.tokens import TokenEncoder
from lorachain.version import __version__
from lorachain.weights.load import load_model, load_tokenizer

CPU, FLOAT32 = torch.device("cpu"), torch.float32


@pytest.fixture
def model(save_tiny: Callable[..., Path]) -> EngineModel:
    base = save_tiny(chat=True)

    def load(device: torch.device, dtype: torch.dtype) -> tuple[torch.nn.Module, TokenEncoder]:
        return load_model(base, device, dtype), TokenEncoder(load_tokenizer(base))

    return EngineModel("tiny", base, None, "none", "a" * 64, None, load)


def test_the_local_engine(model: EngineModel) -> None:
    engine = open_engine(EngineOptions(cache_bytes=123), model, device=CPU, dtype=FLOAT32)
    assert isinstance(engine, LocalEngine)
    assert engine.cache_bytes == 123
    assert engine.identity == EngineIdentity("local", __version__, "tiny", "a" * 64)
    assert len(collect(engine, exam_requests(3), Sampling(4))) == 3


def test_weights_are_told_apart(model: EngineModel) -> None:
    hashes = {
        model.weights_sha256,
        replace(model, adapter_sha256="b" * 64).weights_sha256,
        replace(model, adapter_sha256="c" * 64).weights_sha256,
        replace(model, quantization="nf4").weights_sha256,
    }
    assert len(hashes) == 4
    assert all(len(value) == 64 for value in hashes)


def test_the_openai_engine_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORACHAIN_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-tests-and-nothing-else")
    with tiny_server() as (url, received):
        options = EngineOptions("openai", url, None, interface="completions", concurrency=3, timeout=30.0)
        engine = open_engine(options, None, device=CPU, dtype=FLOAT32)
        collect(engine, exam_requests(2), Sampling(4))
    assert isinstance(engine, OpenAiEngine)
    assert (engine.model, engine.concurrency, engine.timeout) == (MODEL, 3, 30.0)
    assert {request["authorization"] for request in received} == {"Bearer sk-of-tests-and-nothing-else"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions("openai"), "--engine openai needs --base-url"),
        (EngineOptions("local", base_url="http://localhost:1"), "--base-url belongs to --engine openai"),
        (EngineOptions("vllm", server_model="m"), "--server-model belongs to --engine openai"),
        (EngineOptions("best"), "--engine is 'best'; allowed: local, openai, vllm"),  # type: ignore[arg-type]
        (EngineOptions("openai", "http://a:b@localhost:1"), "contains a user name or password"),
    ],
)
def test_options_that_are_refused(options: EngineOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_engine_options(options)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the paid service is not sent in the clear to another machine; one's own is."""
    local, lan, tls = map(parse_address, ("http://127.0.0.1:1", "http://192.168.0.7:1", "https://api.example.org"))
    for name in ("LORACHAIN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert api_key_for(local) is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-paid-service-key")
    assert [api_key_for(address) for address in (local, lan, tls)] == [
        "sk-paid-service-key",
        None,
        "sk-paid-service-key",
    ]
    monkeypatch.setenv("LORACHAIN_API_KEY", " own-server-key\n")
    assert [api_key_for(address) for address in (local, lan)] == ["own-server-key"] * 2
    assert without_tokens("own-server-key and sk-paid-service-key") == "*** and ***"
    monkeypatch.setenv("LORACHAIN_API_KEY", "own\r\nX-Header: 1")
    with pytest.raises(ConfigError, match="LORACHAIN_API_KEY contains blanks") as raised:
        api_key_for(local)
    assert "X-Header" not in str(raised.value)


@dataclass
class FakeVllm:
    """Records what it is called with, as vLLM 0.33 is called."""

    calls: list[tuple[str, Any]]
    finish: str = "stop"

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def generate(prompts: Any, parameters: Any, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
            self.calls.append(("generate", (prompts, parameters, lora_request)))
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(text=f"풀이 {p['seed']}\n뒤", token_ids=[7, 8, 9], finish_reason=self.finish)
                    ]
                )
                for p in parameters
            ]

        def llm(**arguments: Any) -> Any:
            self.calls.append(("LLM", arguments))
            return SimpleNamespace(generate=generate)

        module = SimpleNamespace(
            __version__="0.33.0",
            LLM=llm,
            SamplingParams=lambda **arguments: arguments,
            TokensPrompt=lambda **arguments: arguments,
        )
        request = SimpleNamespace(LoRARequest=lambda *arguments: arguments)
        monkeypatch.setitem(sys.modules, "vllm", module)
        monkeypatch.setitem(sys.modules, "vllm.lora.request", request)


def test_vllm_gets_ids_seeds_and_limits(model: EngineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVllm([])
    fake.install(monkeypatch)
    engine = open_engine(EngineOptions("vllm", tensor_parallel=2, max_length=900), model, device=CPU, dtype=FLOAT32)
    assert isinstance(engine, VllmEngine)
    requests = [replace(request, seed=request.seed + 2**63) for request in exam_requests(3)]
    completions = collect(engine, requests, Sampling(40, 0.7), stop=lambda text: "\n" in text)
    assert completions == [Completion(f"풀이 {number}\n", 3, "stop") for number in range(3)]
    assert engine.identity == EngineIdentity("vllm", "0.33.0", "tiny", "a" * 64)
    (_, arguments), (_, (prompts, parameters, lora_request)) = fake.calls
    assert arguments == {
        "model": str(model.base), "dtype": "bfloat16", "tensor_parallel_size": 2, "max_model_len": 900,
        "enable_prefix_caching": True, "generation_config": "vllm", "trust_remote_code": False,
    }  # fmt: skip
    encoder = TokenEncoder(load_tokenizer(model.base))
    expected = {request.seed % 2**63: encoder.rendered_ids(request.text) for request in requests}
    assert {p["seed"]: prompt["prompt_token_ids"] for p, prompt in zip(parameters, prompts, strict=True)} == expected
    assert all(
        p == {"max_tokens": 40, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "seed": p["seed"],
              "stop_token_ids": [1, 5], "skip_special_tokens": True}
        for p in parameters
    )  # fmt: skip
    assert lora_request is None
    with pytest.raises(EngineError, match="more than the 900 of this engine"):
        collect(engine, requests, Sampling(900))


def test_vllm_gets_the_adapter(model: EngineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVllm([])
    fake.install(monkeypatch)
    adapter = save_adapter_for(model.base, tmp_path / "adapter", "text", r=12)
    with_adapter = replace(model, adapter=adapter, adapter_sha256="b" * 64)
    engine = open_engine(EngineOptions("vllm"), with_adapter, device=CPU, dtype=FLOAT32)
    collect(engine, exam_requests(1), Sampling(4))
    arguments, (_, _, lora_request) = fake.calls[0][1], fake.calls[1][1]
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 16)
    assert lora_request == ("adapter", 1, str(adapter))


def test_vllm_that_cannot_be_used(model: EngineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'lorachain\[vllm\]'"):
        open_engine(EngineOptions("vllm"), model, device=CPU, dtype=FLOAT32)
    fake = FakeVllm([], finish="abort")
    fake.install(monkeypatch)
    with pytest.raises(ConfigError, match="holds its base in nf4"):
        open_engine(EngineOptions("vllm"), replace(model, quantization="nf4"), device=CPU, dtype=FLOAT32)
    engine = open_engine(EngineOptions("vllm"), model, device=CPU, dtype=FLOAT32)
    with pytest.raises(EngineError, match="ended request 1 with 'abort'"):
        collect(engine, exam_requests(1), Sampling(4))
