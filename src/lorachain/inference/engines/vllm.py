"""`vllm`: vLLM in this process (optional extra `lorachain[vllm]`), for sampling on GPUs."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorachain.errors import ConfigError, EngineError
from lorachain.inference.engines.base import Completion, EngineIdentity, FinishReason, Sampling, TextRequest
from lorachain.inference.engines.stopping import cut_at_stop
from lorachain.tokens import TokenEncoder

_BATCH = 512
"""Requests that are handed over at a time: vLLM reports them together, and an interruption costs these."""
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM allows as `max_lora_rank`."""
_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """Continues texts with an `LLM` of vLLM. Prompts are tokenized here, so that they have the ids of training."""

    llm: Any
    vllm: Any
    """The module."""
    encoder: TokenEncoder
    end_ids: tuple[int, ...]
    identity: EngineIdentity
    adapter: Path | None
    max_length: int

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        """See `TextEngine`. `stop` is applied afterwards. Sampled texts are those of vLLM's generators: a seed gives
        other texts than with `local`."""
        prompts = [self.encoder.rendered_ids(request.text) for request in requests]
        longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
        if longest > self.max_length:
            raise EngineError(
                f"a prompt and its {sampling.max_new_tokens} new tokens have {longest} tokens, more than the "
                f"{self.max_length} of this engine; lower the limit of new tokens or raise the engine's"
            )
        order = sorted(range(len(requests)), key=lambda i: (prompts[i], i))  # for vLLM's prefix cache
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            outputs = self.llm.generate(
                [self.vllm.TokensPrompt(prompt_token_ids=prompts[i]) for i in batch],
                [self._parameters(sampling, requests[i].seed) for i in batch],
                lora_request=self._lora_request(),
                use_tqdm=False,
            )
            for index, output in zip(batch, outputs, strict=True):
                (choice,) = output.outputs
                if choice.finish_reason not in _FINISHES:
                    raise EngineError(f"vLLM ended request {index + 1} with {choice.finish_reason!r}; see its log")
                completion = Completion(choice.text, len(choice.token_ids), _FINISHES[choice.finish_reason])
                on_completion(index, cut_at_stop(completion, stop))

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        return self.vllm.SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            seed=seed % 2**63,
            stop_token_ids=list(self.end_ids),
            skip_special_tokens=True,
        )

    def _lora_request(self) -> Any:
        if self.adapter is None:
            return None
        return importlib.import_module("vllm.lora.request").LoRARequest("adapter", 1, str(self.adapter))


def import_vllm() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed, or fails to load.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            f"--engine vllm needs vLLM, which cannot be loaded ({error}); install it on a machine with a GPU: "
            "pip install 'lorachain[vllm]'"
        ) from error


def start_vllm(vllm: Any, base: Path, *, adapter_rank: int | None, tensor_parallel: int, max_length: int) -> Any:
    """vLLM's `LLM` with a model's directory, in bf16 and without the sampling defaults of its generation configuration.

    Raises:
        ConfigError: vLLM does not take the adapter's rank.
        EngineError: vLLM does not start (no GPU, too little memory).
    """
    options: dict[str, Any] = {}
    if adapter_rank is not None:
        rank = next((allowed for allowed in _LORA_RANKS if allowed >= adapter_rank), None)
        if rank is None:
            raise ConfigError(
                f"the adapter has rank {adapter_rank}, vLLM takes at most {_LORA_RANKS[-1]}; merge it, or use --engine "
                "local"
            )
        options = {"enable_lora": True, "max_lora_rank": rank}
    try:
        return vllm.LLM(
            model=str(base),
            dtype="bfloat16",
            tensor_parallel_size=tensor_parallel,
            max_model_len=max_length,
            enable_prefix_caching=True,
            generation_config="vllm",
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # whatever vLLM raises where its hardware or the model does not suit it
        raise EngineError(f"vLLM does not start with {base}: {type(error).__name__}: {error}") from error
