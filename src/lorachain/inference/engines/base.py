"""The protocol that every text engine follows: requests in; text, token counts and finish reasons out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One text to continue, in both forms that engines take."""

    text: str
    """The rendered prompt without BOS, cue included: for engines that continue text."""
    messages: tuple[Message, ...]
    """The same as turns, the last of them the user's: for servers with a chat interface."""
    seed: int = 0
    """What is sampled for a request depends on its own seed alone, where the engine allows it."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What follows a prompt, without the end token."""

    text: str
    tokens: int
    """Generated tokens, the end token included."""
    finish: FinishReason
    """`stop`: by an end token or the stop condition; `length`: cut at `max_new_tokens`."""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What decides an engine's output, for results and reports; results of different identities never compare."""

    engine: str
    version: str
    model: str
    """A directory's name, a hub id, or the server's name for its model."""
    weights_sha256: str | None
    """None where a server does not show its weights."""


class TextEngine(Protocol):
    """Continues texts."""

    @property
    def identity(self) -> EngineIdentity: ...

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        """Continues every request; `on_completion(index, completion)` is called once per request, in any order, as
        soon as it is finished, from the calling thread, so that a caller can keep what is done before an interruption.

        Args:
            stop: true for a text that is complete: what follows is cut.

        Raises:
            EngineError: the engine cannot complete a request, retries included.
        """
        ...
