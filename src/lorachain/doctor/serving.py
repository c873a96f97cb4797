"""Compares what a running server answers with what the directory's own weights answer.

A server that leaves an adapter out answers fluently and gives no error (vLLM issue 34186, verl issue 7285). Greedy
answers of the same weights are equal up to the first place where two tokens are so nearly as likely that rounding
decides. How much less likely the server's token is there, in nats, is the answer's regret: 0 for an equal answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lorachain.artifacts import Check
from lorachain.doctor.findings import failure, ok, warning
from lorachain.doctor.model_run import PROBES
from lorachain.inference.engines.base import Completion, Message, Sampling, TextRequest
from lorachain.inference.engines.http_json import parse_address
from lorachain.inference.engines.openai_server import open_openai_engine
from lorachain.inference.engines.openai_wire import Interface
from lorachain.inference.engines.select import api_key_for
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.generate import generate
from lorachain.prompts import Prompt, render
from lorachain.tokens import TokenEncoder
from lorachain.weights.logit_diff import probe_logits
from lorachain.weights.lora import PeftModel

_TOKENS = 16
"""Generated for each prompt."""
SAME = 0.1
"""Nats: in another engine bf16 rounding changes a choice only where two tokens are nearly as likely."""
CLOSE = 0.5
"""A server that holds the weights in 8 or 4 bits."""


@dataclass(frozen=True, slots=True)
class Regret:
    """Mean over a server's answers, in nats: under the directory's model, and under its base without the adapter."""

    own: float
    base: float | None
    answers: int


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
    texts = [answers[i].text for i in range(len(prompts))]
    yield judge(regret(model, encoder, prompts, texts), str(address), engine.model)


def judge(found: Regret, address: str, name: str) -> Check:
    """What the regret of a server's answers means."""
    if not found.answers:
        return failure("server", f"{name} at {address} answers nothing", "look at the server's log")
    what = f"{name} at {address}: where {found.answers} greedy answers leave this model's own, they are"
    numbers = f"{found.own:.2f} nats less likely"
    if found.base is not None:
        numbers += f" (its base's without the adapter: {found.base:.2f})"
        if found.base <= SAME < found.own:
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
    """The regret of one answer to each prompt; empty answers are left out."""
    own: list[float] = []
    base: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer:
            continue
        ids = encoder.prompt_ids(prompt)
        own.append(answer_regret(model, encoder, ids, answer))
        if isinstance(model, PeftModel):
            with model.disable_adapter():
                base.append(answer_regret(model, encoder, ids, answer))
    if not own:
        return Regret(0.0, None, 0)
    return Regret(sum(own) / len(own), sum(base) / len(base) if base else None, len(own))


def answer_regret(model: nn.Module, encoder: TokenEncoder, prompt: list[int], answer: str) -> float:
    """Log-probability of the model's own next token where its greedy answer and `answer` part, minus that of the token
    with which `answer` continues; 0 where they do not part.

    Texts are compared, not ids: a server shows no ids, and a text can be tokenized in several ways.
    """
    ids: list[int] = []
    generate(
        model,
        encoder,
        [prompt],
        stop=lambda text: False,
        max_new_tokens=_TOKENS,
        on_token=lambda index, so_far: ids.append(so_far[-1]),
    )
    texts = [encoder.tokenizer.decode(ids[:count], skip_special_tokens=True) for count in range(len(ids) + 1)]
    agreeing = max(count for count, text in enumerate(texts) if answer.startswith(text.removesuffix("\ufffd")))
    if agreeing == len(ids) or texts[-1] == answer:
        return 0.0
    rest = answer[len(texts[agreeing].removesuffix("\ufffd")) :]
    theirs = encoder.text_ids(rest)[0] if rest else encoder.end_id
    if theirs == ids[agreeing]:
        return 0.0
    with eval_mode(model):
        logprobs = probe_logits(model, [prompt + ids[:agreeing]])[0].log_softmax(-1)
    return float(logprobs[ids[agreeing]] - logprobs[theirs])
