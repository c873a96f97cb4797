"""What is sent to a server with OpenAI's interface, and what is read of its answers."""

import http.client
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from lorachain.errors import EngineError
from lorachain.inference.engines.base import Completion, FinishReason, Sampling, TextRequest
from lorachain.inference.engines.http_json import Address, AnswerTooLargeError, HttpAnswer, exchange
from lorachain.inference.engines.retries import RETRIED_STATUSES, retry_after_seconds
from lorachain.redaction import printable, without_tokens

Interface = Literal["chat", "completions"]

FRAME_BYTES = 2**20
"""What an answer may have around its text, and a list of models altogether."""
_SHOWN = 300
_NAMED = 20
_SEEDS = 2**31
"""Seeds are sent modulo this number: some servers keep 32 bits of them."""


class UnusableAnswer(Exception):  # noqa: N818 - an event that leads to another attempt
    """An answer that another attempt may give better, with the seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Usage(BaseModel):
    completion_tokens: int = Field(ge=0, le=2**31)


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message | None = None
    text: str | None = None
    finish_reason: FinishReason


class _Answer(BaseModel):
    """What is read of an answer of `/chat/completions` or `/completions`."""

    choices: tuple[_Choice, ...]
    usage: _Usage


class _ListedModel(BaseModel):
    id: str
    owned_by: str = ""


class _Models(BaseModel):
    data: tuple[_ListedModel, ...]


class _Version(BaseModel):
    version: str


def request_payload(
    model: str, interface: Interface, request: TextRequest, sampling: Sampling
) -> tuple[str, dict[str, Any]]:
    common = {
        "model": model,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "seed": request.seed % _SEEDS,
        "stream": False,
    }
    if interface == "completions":
        return "/completions", {**common, "prompt": request.text}
    messages = [{"role": message.role, "content": message.content} for message in request.messages]
    return "/chat/completions", {**common, "messages": messages}


def check_status(address: Address, model: str, interface: Interface, api_key: str | None, answer: HttpAnswer) -> None:
    """Raises what an answer's status means: EngineError, or UnusableAnswer where another attempt may end better."""
    if answer.status == 200:
        return
    said = _shown(answer.body)
    if answer.status in RETRIED_STATUSES:
        raise UnusableAnswer(f"status {answer.status}, {said}", retry_after_seconds(answer.headers))
    if answer.status in (401, 403):
        raise _refused_key(address, answer)
    if answer.status == 404:
        names = names_of(listed_models(address, api_key))
        raise EngineError(
            f"{address} does not have the model {model!r} or the {interface} interface (status "
            f"404, {said}); its models: {names}. Name one as --server-model"
        )
    raise EngineError(
        f"{address} refused a request with status {answer.status}: {said}. Check --base-url, --server-model and "
        "the length of the prompts against the server's limits"
    )


def read_completion(answer: HttpAnswer, interface: Interface) -> Completion:
    """The completion in an answer with status 200.

    Raises:
        UnusableAnswer: it has another form.
    """
    try:
        parsed = _Answer.model_validate_json(answer.body)
        (choice,) = parsed.choices
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UnusableAnswer(f"an answer in another form ({where or 'JSON'}: {first['msg']})") from error
    except ValueError as error:
        raise UnusableAnswer("an answer with another number of choices than one") from error
    text = choice.text if interface == "completions" else choice.message.content if choice.message else None
    if text is None:
        raise UnusableAnswer("an answer without text")
    return Completion(text, parsed.usage.completion_tokens, choice.finish_reason)


def listed_models(address: Address, api_key: str | None) -> tuple[_ListedModel, ...]:
    """What the server lists under `/models`; empty where it lists nothing readable.

    Raises:
        EngineError: nothing answers there, or the key is refused.
    """
    try:
        answer = exchange(address, "GET", "/models", None, api_key=api_key, timeout=30.0, max_bytes=FRAME_BYTES)
    except (OSError, http.client.HTTPException, AnswerTooLargeError) as error:
        raise EngineError(
            f"{address} cannot be reached ({reason_of(error)}); start the server, or correct --base-url"
        ) from error
    if answer.status in (401, 403):
        raise _refused_key(address, answer)
    try:
        return _Models.model_validate_json(answer.body).data
    except ValidationError:
        return ()


def names_of(models: Sequence[_ListedModel]) -> str:
    """The names of the first models, for messages."""
    names = [printable(model.id[:_SHOWN]) for model in models[:_NAMED]]
    return ", ".join([*names, *["…"] * (len(models) > _NAMED)]) or "none"


def server_version(address: Address, api_key: str | None) -> str:
    """The server's own version, where it has one to show: vLLM under `/version`, Ollama under `/api/version`."""
    root = Address(address.scheme, address.host, address.port, "")
    for path in ("/version", "/api/version"):
        with suppress(OSError, http.client.HTTPException, AnswerTooLargeError, ValidationError):
            answer = exchange(root, "GET", path, None, api_key=api_key, timeout=10.0, max_bytes=FRAME_BYTES)
            if answer.status == 200:
                return printable(_Version.model_validate_json(answer.body).version[:_SHOWN])
    return "unknown"


def _refused_key(address: Address, answer: HttpAnswer) -> EngineError:
    return EngineError(
        f"{address} refused access with status {answer.status}: {_shown(answer.body)}. Put the server's key into the "
        "environment variable LORACHAIN_API_KEY"
    )


def _shown(body: bytes) -> str:
    """The beginning of an answer, for messages: one line, without secrets."""
    text = " ".join(body[: 4 * _SHOWN].decode(errors="replace").split())
    return printable(without_tokens(text)[:_SHOWN]) or "no text"


def reason_of(error: Exception) -> str:
    return printable(without_tokens(str(error) or type(error).__name__))[:_SHOWN]
