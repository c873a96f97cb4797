"""An engine from the options of the command line."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lorachain.errors import ConfigError
from lorachain.inference.engines.base import EngineIdentity, TextEngine
from lorachain.inference.engines.http_json import Address, parse_address
from lorachain.inference.engines.local import LocalEngine
from lorachain.inference.engines.openai_server import open_openai_engine
from lorachain.inference.engines.openai_wire import Interface
from lorachain.inference.engines.vllm import VllmEngine, import_vllm, start_vllm
from lorachain.provenance import sha256_json
from lorachain.redaction import API_KEY_VARIABLES
from lorachain.tokens import TokenEncoder
from lorachain.version import __version__
from lorachain.weights.load import folder_end_ids, load_tokenizer
from lorachain.weights.lora_config import read_lora_config

EngineName = Literal["local", "openai", "vllm"]
ENGINES: tuple[EngineName, ...] = ("local", "openai", "vllm")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`--engine` and what belongs to it."""

    engine: EngineName = "local"
    base_url: str | None = None
    server_model: str | None = None
    interface: Interface = "chat"
    concurrency: int = 8
    timeout: float = 600.0
    """Seconds for one answer of a server."""
    tensor_parallel: int = 1
    max_length: int = 8192
    """Of prompt and new tokens together, for vLLM, which reserves memory for it."""
    token_budget: int = 8192
    cache_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A model for the engines that run here."""

    name: str
    base: Path
    adapter: Path | None
    quantization: str
    base_sha256: str
    adapter_sha256: str | None
    load: Callable[[torch.device, torch.dtype], tuple[nn.Module, TokenEncoder]]

    @property
    def weights_sha256(self) -> str:
        """The base's hash; with an adapter or a quantization one of all that decides the weights."""
        if self.adapter_sha256 is None and self.quantization == "none":
            return self.base_sha256
        return sha256_json(
            {"base": self.base_sha256, "adapter": self.adapter_sha256, "quantization": self.quantization}
        )


def check_engine_options(options: EngineOptions) -> None:
    """Checks what can be checked before anything is loaded or connected to.

    Raises:
        ConfigError: an option is out of range, or belongs to another engine.
    """
    if options.engine not in ENGINES:
        raise ConfigError(f"--engine is {options.engine!r}; allowed: {', '.join(ENGINES)}")
    if options.engine != "openai":
        for name, value in (("--base-url", options.base_url), ("--server-model", options.server_model)):
            if value is not None:
                raise ConfigError(f"{name} belongs to --engine openai, but --engine is {options.engine}")
        return
    if options.base_url is None:
        raise ConfigError(
            "--engine openai needs --base-url, the address that the server prints, such as http://localhost:8000/v1"
        )
    api_key_for(parse_address(options.base_url))


def open_engine(
    options: EngineOptions, model: EngineModel | None, *, device: torch.device, dtype: torch.dtype
) -> TextEngine:
    """The engine that the options name; `local` and `vllm` load `model`, `openai` needs none.

    Raises:
        ConfigError: see `check_engine_options`; or vLLM is not installed, or does not take the model.
        EngineError: a server cannot be used, or vLLM does not start.
        ModelError, AdapterError: the model cannot be loaded.
    """
    check_engine_options(options)
    if options.engine == "openai":
        address = parse_address(options.base_url or "")
        return open_openai_engine(
            address,
            options.server_model,
            api_key=api_key_for(address),
            interface=options.interface,
            concurrency=options.concurrency,
            timeout=options.timeout,
        )
    if model is None:
        raise ConfigError(f"--engine {options.engine} needs a model")
    if options.engine == "vllm":
        return _vllm_engine(options, model)
    weights, encoder = model.load(device, dtype)
    identity = EngineIdentity("local", __version__, model.name, model.weights_sha256)
    return LocalEngine(weights, encoder, identity, options.token_budget, options.cache_bytes)


def _vllm_engine(options: EngineOptions, model: EngineModel) -> VllmEngine:
    vllm = import_vllm()
    if model.quantization != "none":
        raise ConfigError(
            f"{model.name} holds its base in {model.quantization}, which the vllm engine does not; use --engine local"
        )
    rank = None
    if model.adapter is not None:
        lora = read_lora_config(model.adapter)
        rank = max([lora.r, *(lora.rank_pattern or {}).values()])
    encoder = TokenEncoder(load_tokenizer(model.base))
    return VllmEngine(
        llm=start_vllm(
            vllm, model.base, adapter_rank=rank, tensor_parallel=options.tensor_parallel, max_length=options.max_length
        ),
        vllm=vllm,
        encoder=encoder,
        end_ids=tuple(sorted({encoder.end_id, encoder.eos_id, *folder_end_ids(model.base)})),
        identity=EngineIdentity("vllm", str(vllm.__version__), model.name, model.weights_sha256),
        adapter=model.adapter,
        max_length=options.max_length,
    )


def api_key_for(address: Address) -> str | None:
    """The server's key from the environment: LORACHAIN_API_KEY, or else OPENAI_API_KEY.

    The latter is the key of a paid service, so it is not sent where others could read it on the way.

    Raises:
        ConfigError: it contains what no header may.
    """
    own, paid = (os.environ.get(variable, "").strip() for variable in API_KEY_VARIABLES)
    key = own or (paid if address.is_private else "")
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"the environment variable {API_KEY_VARIABLES[0 if own else 1]} contains blanks or other characters that "
            "no key has; set it again"
        )
    return key
