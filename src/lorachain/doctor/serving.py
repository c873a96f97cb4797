"""Compares what a running server answers with what the directory's own weights say.

A server that leaves an adapter out answers fluently and gives no error (vLLM issue 34186, verl issue 7285). Its greedy
answers show it: each token that a server chose should be the most likely one under the directory's own model, up to
rounding. How much less likely it is than the most likely one, in nats, is its regret.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorachain.artifacts import Check
from lorachain.doctor.findings import failure, ok, warning
from lorachain.doctor.model_run import PROBES
from lorachain.errors import NonFiniteError
from lorachain.inference.engines.base import Completion, Message, Sampling, TextRequest
from lorachain.inference.engines.http_json import parse_address
from lorachain.inference.engines.openai_server import open_openai_engine
from lorachain.inference.engines.openai_wire import Interface
from lorachain.inference.engines.select import api_key_for
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.logprobs import token_logprobs
from lorachain.prompts import Prompt, render
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight, text_decoder
from lorachain.weights.lora import PeftModel

_TOKENS = 16
"""Generated for each prompt."""
SAME = 0.05
"""Nats per token: bf16 rounding in another engine changes a choice only where two tokens are nearly as likely."""
CLOSE = 0.3
"""A server that holds the weights in 8 or 4 bits."""


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean over a server's tokens, in nats: under the directory's model, and under its base without the adapter."""

    own: float
    base: float | None
    tokens: int


def check_server(
    model: nn.Module, encoder: TokenEncoder, url: str, *, server_model: str | None, timeout: float
) -> Iterator[Check]:
    """The server's greedy answers to a few prompts against the directory's own log-probabilities.

    The chat interface where the tokenizer has a chat template, so that the server's own template is compared too.

    Raises:
        ConfigError: the address. EngineError: the server cannot be used.
    """
    address = parse_address(url)
    interface: Interface = "chat" if encoder.turns is not None else "completions"
    prompts = [Prompt(f"{probe.user}\n{probe.cue}", "") if encoder.turns else probe for probe in PROBES]
    engine = open_openai_engine(
        address, server_model, api_key=api_key_for(address), interface=interface, timeout=timeout
    )
    requests = [TextRequest(render(p, encoder.turns), (Message("user", p.user),)) for p in prompts]
    answers: dict[int, Completion] = {}
    engine.complete(
        requests, Sampling(_TOKENS), stop=lambda text: False, on_completion=lambda i, done: answers.update({i: done})
    )
    found = regret(model, encoder, prompts, [answers[i].text for i in range(len(prompts))])
    yield judge(found, str(address), engine.model)


def judge(found: Regret, address: str, name: str) -> Check:
    """What the regret of a server's answers means."""
    what = f"{name} at {address}: {found.tokens} tokens of greedy answers are"
    numbers = f"{found.own:.3f} nats per token from the most likely ones of this model"
    if not found.tokens:
        return failure("server", f"{name} at {address} answers nothing", "look at the server's log")
    if found.base is not None:
        numbers += f", {found.base:.3f} from its base's without the adapter"
        if found.base <= SAME and found.own > SAME:
            return failure(
                "server",
                f"{what} {numbers}: the server leaves the adapter out",
                "see whether it lists the adapter as a model of its own (--server-model), or serve the merged model: "
                "lorachain export --format hf",
            )
        if found.base <= SAME and found.own <= SAME:
            return warning(
                "server",
                f"{what} {numbers}: base and adapter answer these prompts alike, so nothing shows which one it serves",
                "serve the merged model, or compare answers to prompts that the adapter was trained on",
            )
    if found.own <= SAME:
        return ok("server", f"{what} {numbers}")
    if found.own <= CLOSE:
        return warning(
            "server", f"{what} {numbers}: close, but not the same weights", "check its quantization and its type (bf16)"
        )
    return failure(
        "server",
        f"{what} {numbers}: it serves another model or another chat template",
        "check the model's name, the chat template and that each prompt begins with one BOS",
    )


def regret(model: nn.Module, encoder: TokenEncoder, prompts: Sequence[Prompt], answers: Sequence[str]) -> Regret:
    """How much less likely the answers' tokens are than the most likely ones.

    Raises:
        ValueError: there is not one answer for each prompt.
    """
    own: list[Tensor] = []
    base: list[Tensor] = []
    with eval_mode(model):
        for prompt, answer in zip(prompts, answers, strict=True):
            start, ids = encoder.prompt_ids(prompt), encoder.text_ids(answer)
            if not ids:
                continue
            own.append(_regrets(model, start, ids))
            if isinstance(model, PeftModel):
                with model.disable_adapter():
                    base.append(_regrets(model, start, ids))
    tokens = sum(map(len, own))
    if not tokens:
        return Regret(0.0, None, 0)
    return Regret(float(torch.cat(own).mean()), float(torch.cat(base).mean()) if base else None, tokens)


def _regrets(model: nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    """Per token of the answer, the most likely token's log-probability minus its own: (T,) float32."""
    decoder, weight = text_decoder(model), head_weight(model)
    device = next(decoder.parameters()).device
    ids = torch.tensor([prompt + answer], device=device)
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
    best = (hidden @ weight.T).argmax(dim=-1)
    targets = torch.tensor(answer, device=device)
    values = token_logprobs(hidden, weight, best) - token_logprobs(hidden, weight, targets)
    if not bool(values.isfinite().all()):
        raise NonFiniteError("the directory's own log-probabilities are not finite; check its weights")
    return values.clamp(min=0).float().cpu()
