"""`openai`: any server with OpenAI's interface (vLLM, SGLang, llama.cpp, Ollama, `transformers serve`).

Requests run in threads, several at a time; the calling thread gets each completion once. A request whose answer was
lost on the way is sent again, so a server may work twice, and what comes back is used once.
"""

import http.client
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lorachain.errors import ConfigError, EngineError
from lorachain.inference.engines.base import Completion, EngineIdentity, Sampling, TextRequest
from lorachain.inference.engines.http_json import Address, AnswerTooLargeError, exchange, shut_down
from lorachain.inference.engines.openai_wire import (
    FRAME_BYTES,
    Interface,
    UnusableAnswer,
    check_status,
    listed_models,
    names_of,
    read_completion,
    reason_of,
    request_payload,
    server_version,
)
from lorachain.inference.engines.retries import Retries
from lorachain.inference.engines.stopping import cut_at_stop
from lorachain.redaction import printable

MAX_CONCURRENCY = 256
_BYTES_PER_TOKEN = 512
"""An answer of more than this for each token asked for, and FRAME_BYTES around them, is refused."""


@dataclass(frozen=True, slots=True)
class OpenAiEngine:
    """Continues texts by a server.

    The chat interface sends the messages, and the server applies the model's chat template; the completions interface
    sends the rendered text, to which servers add BOS. What the server does by default beyond temperature, `top_p` and
    seed (such as `top_k` from the model's generation configuration) stays as it is there.
    """

    address: Address
    model: str
    identity: EngineIdentity
    interface: Interface = "chat"
    concurrency: int = 8
    timeout: float = 600.0
    """Seconds for one answer."""
    retries: Retries = field(default_factory=Retries)
    api_key: str | None = field(default=None, repr=False)

    def complete(
        self,
        requests: Sequence[TextRequest],
        sampling: Sampling,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Completion], None],
    ) -> None:
        """See `TextEngine`. `stop` is applied here: the server generates up to its end token or the limit."""
        # In the order of the texts, so that a server that caches prefixes finds them.
        waiting = queue.SimpleQueue[int]()
        for index in sorted(range(len(requests)), key=lambda i: (requests[i].text, i)):
            waiting.put(index)
        results = queue.SimpleQueue[tuple[int, Completion | BaseException]]()
        run = _Run(self, sampling, stop)

        def work() -> None:
            while not run.stopped.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    results.put((index, run.completion(requests[index])))
                except BaseException as error:  # raised again by the calling thread
                    results.put((index, error))
                    return

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(requests)))]
        for thread in threads:
            thread.start()
        failure: BaseException | None = None
        try:
            for _ in range(len(requests)):
                index, result = results.get()
                if isinstance(result, BaseException):
                    failure = result
                    break
                on_completion(index, result)
        finally:
            run.abort()
        if failure is not None:
            for thread in threads:
                thread.join()
            with suppress(queue.Empty):
                while True:  # what was finished beside the request that failed is kept
                    index, result = results.get_nowait()
                    if isinstance(result, Completion):
                        on_completion(index, result)
            raise failure


class _Run:
    """The requests of one call of `complete`, which end together."""

    def __init__(self, engine: OpenAiEngine, sampling: Sampling, stop: Callable[[str], bool]) -> None:
        self.engine = engine
        self.sampling = sampling
        self.stop = stop
        self.stopped = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def abort(self) -> None:
        """Ends every exchange in progress and every wait for the next attempt."""
        with self._lock:
            self.stopped.set()
            for sock in self._sockets:
                shut_down(sock)

    def completion(self, request: TextRequest) -> Completion:
        """The completion of one request, after as many attempts as it takes.

        Raises:
            EngineError: the server refuses the request, or no attempt succeeds.
        """
        engine, reason = self.engine, ""
        for attempt in range(engine.retries.attempts):
            try:
                return self._attempt(request)
            except UnusableAnswer as unusable:
                reason = str(unusable)
                wait = engine.retries.wait(attempt, unusable.wait)
            if attempt + 1 < engine.retries.attempts and self.stopped.wait(wait):
                break
        raise EngineError(
            f"{engine.address}: no usable answer in {engine.retries.attempts} attempts, the last: {reason}. Check the "
            "server's log, then start again: what is finished is kept"
        )

    def _attempt(self, request: TextRequest) -> Completion:
        engine = self.engine
        path, payload = request_payload(engine.model, engine.interface, request, self.sampling)
        opened: list[socket.socket] = []

        def on_socket(sock: socket.socket) -> None:
            with self._lock:
                if self.stopped.is_set():
                    raise UnusableAnswer("the run has ended")
                self._sockets.add(sock)
                opened.append(sock)

        try:
            answer = exchange(
                engine.address,
                "POST",
                path,
                payload,
                api_key=engine.api_key,
                timeout=engine.timeout,
                max_bytes=FRAME_BYTES + _BYTES_PER_TOKEN * self.sampling.max_new_tokens,
                on_socket=on_socket,
            )
        except AnswerTooLargeError as error:
            raise EngineError(
                f"{engine.address} sends {error} for at most {self.sampling.max_new_tokens} tokens, which is not an "
                "answer; check that --base-url is the address of a text server"
            ) from error
        except TimeoutError as error:
            raise UnusableAnswer(f"no answer within {engine.timeout:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnusableAnswer(f"the connection failed ({reason_of(error)})") from error
        finally:
            with self._lock:
                self._sockets.difference_update(opened)
        check_status(engine.address, engine.model, engine.interface, engine.api_key, answer)
        return cut_at_stop(read_completion(answer, engine.interface), self.stop)


def open_openai_engine(
    address: Address,
    model: str | None,
    *,
    api_key: str | None,
    interface: Interface = "chat",
    concurrency: int = 8,
    timeout: float = 600.0,
    retries: Retries | None = None,
) -> OpenAiEngine:
    """The engine for a server that answers; without `model` the only one that it lists.

    Raises:
        EngineError: nothing answers, the key is refused, or no model is named and the server does not list exactly one.
        ConfigError: the concurrency or the timeout is out of range.
    """
    if not 1 <= concurrency <= MAX_CONCURRENCY or not timeout > 0:
        raise ConfigError(
            f"concurrency is {concurrency} and timeout {timeout:g}; allowed: 1 to {MAX_CONCURRENCY} requests at a "
            "time, and more than 0 seconds"
        )
    models = listed_models(address, api_key)
    if model is None:
        if len(models) != 1:
            raise EngineError(f"{address} lists these models: {names_of(models)}; name one as --server-model")
        model = models[0].id
    owner = next((listed.owned_by for listed in models if listed.id == model), "")
    version = printable(f"{owner} {server_version(address, api_key)}".strip())
    name = "openai" if interface == "chat" else "openai-completions"
    return OpenAiEngine(
        address, model, EngineIdentity(name, version, model, None), interface, concurrency, timeout,
        retries or Retries(), api_key,
    )  # fmt: skip
