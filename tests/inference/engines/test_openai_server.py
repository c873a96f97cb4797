"""The `openai` engine against real servers on loopback, with faults between: nothing is lost, nothing comes twice."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from transformers.utils.import_utils import is_serve_available

from engine_making import FAULTS, MODEL, Handler, collect, exam_requests, faulty_proxy, serving, tiny_server
from lorachain.errors import ConfigError, EngineError
from lorachain.inference.engines.base import Completion, EngineIdentity, Sampling
from lorachain.inference.engines.http_json import parse_address
from lorachain.inference.engines.openai_server import OpenAiEngine, open_openai_engine
from lorachain.inference.engines.openai_wire import Interface
from lorachain.inference.engines.retries import Retries, retry_after_seconds

SAMPLED = Sampling(6, temperature=1.0)
GREEDY = Sampling(6)
QUICK = Retries(attempts=20, first_wait=0.01, longest_wait=0.05)


def engine_at(
    url: str, *, model: str = MODEL, interface: Interface = "chat", timeout: float = 60.0, concurrency: int = 4,
    retries: Retries = QUICK, api_key: str | None = None,
) -> OpenAiEngine:  # fmt: skip
    identity = EngineIdentity("openai", "1", model, None)
    return OpenAiEngine(parse_address(url), model, identity, interface, concurrency, timeout, retries, api_key)


@pytest.fixture(scope="module")
def transformers_serve(
    save_tiny_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """`transformers serve` with a tiny Gemma 3: its address, and its name for the model."""
    if not is_serve_available():
        pytest.skip("`transformers serve` needs FastAPI and Uvicorn: pip install 'transformers[serving]'")
    import torch

    root = tmp_path_factory.mktemp("serve")
    folder = save_tiny_in(root, chat=True, dtype=torch.float32)
    with serving(Handler) as url:
        port = int(url.removesuffix("/v1").rsplit(":", 1)[1])
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _is_healthy(port):
            assert process.poll() is None, "the server ended while it started"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait()


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("interface", ["chat", "completions"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_faults_lose_nothing_and_double_nothing(interface: Interface, temperature: float) -> None:
    """Each fault twice, in a fixed random order, among 40 requests from four threads."""
    requests, sampling = exam_requests(40), Sampling(6, temperature)
    slots = random.Random(5).sample(range(60), 2 * len(FAULTS))
    faults = dict(zip(slots, 2 * FAULTS, strict=True))
    with tiny_server() as (url, _):
        expected = collect(engine_at(url, interface=interface), requests, sampling)
        assert len({completion.text for completion in expected}) > 3
        with faulty_proxy(url, faults) as (proxy, done):
            result = collect(engine_at(proxy, interface=interface, timeout=3.0), requests, sampling)
    assert result == expected
    assert {fault for fault in FAULTS if done[fault]} == set(FAULTS)
    assert done["none"] + done["twice"] >= len(requests)


@pytest.mark.parametrize("interface", ["chat", "completions"])
def test_transformers_serve(transformers_serve: tuple[str, str], interface: Interface) -> None:
    url, model = transformers_serve
    requests = exam_requests(8)
    expected = collect(engine_at(url, model=model, interface=interface), requests, GREEDY)
    assert {completion.finish for completion in expected} <= {"stop", "length"}
    assert all(1 <= completion.tokens <= 6 for completion in expected)
    faults = {0: "429", 2: "500", 3: "cut", 5: "slow", 6: "page", 8: "reset", 9: "twice", 11: "cut chunk"}
    with faulty_proxy(url, faults) as (proxy, done):
        result = collect(engine_at(proxy, model=model, interface=interface, timeout=10.0), requests, GREEDY)
    assert result == expected
    assert all(done[fault] for fault in faults.values())


def test_what_is_sent() -> None:
    (request,) = exam_requests(1)
    request = replace(request, seed=2**40 + 17)
    with tiny_server() as (url, received):
        collect(engine_at(url, api_key="sk-secret-of-tests"), [request], SAMPLED)
        collect(engine_at(url, interface="completions"), [request], SAMPLED)
    common = {"model": MODEL, "max_tokens": 6, "temperature": 1.0, "top_p": 1.0, "seed": 17, "stream": False}
    messages = [{"role": "user", "content": request.messages[0].content}]
    assert received == [
        {"path": "/v1/chat/completions", "authorization": "Bearer sk-secret-of-tests", **common, "messages": messages},
        {"path": "/v1/completions", "authorization": None, **common, "prompt": request.text},
    ]


def test_a_stop_cuts_the_text_here() -> None:
    requests = exam_requests(6)
    with tiny_server() as (url, _):
        free = collect(engine_at(url), requests, SAMPLED)
        number = max(range(6), key=lambda i: len(free[i].text))
        first = free[number].text[0]
        stopped = collect(engine_at(url), requests, SAMPLED, stop=lambda text: first in text)
    assert stopped[number] == Completion(first, free[number].tokens, "stop")


def test_what_was_done_is_kept_where_a_request_fails() -> None:
    """The sixth request fails for good: the five before it are reported."""
    requests = exam_requests(12)
    kept: list[int] = []
    with tiny_server() as (url, _), faulty_proxy(url, dict.fromkeys(range(5, 400), "500")) as (proxy, _):
        engine = engine_at(proxy, concurrency=1, retries=Retries(3, 0.01, 0.02))
        with pytest.raises(EngineError, match=r"no usable answer in 3 attempts, the last: status 500, <html>oops"):
            engine.complete(
                requests, SAMPLED, stop=lambda text: False, on_completion=lambda index, completion: kept.append(index)
            )
    assert len(kept) == len(set(kept)) == 5


def test_an_interruption_ends_the_requests_in_progress() -> None:
    requests = exam_requests(8)
    with tiny_server() as (url, _), faulty_proxy(url, dict.fromkeys(range(1, 400), "slow")) as (proxy, _):

        def interrupt(index: int, completion: Completion) -> None:
            raise KeyboardInterrupt

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine_at(proxy, timeout=600).complete(requests, SAMPLED, stop=lambda text: False, on_completion=interrupt)
    assert time.monotonic() - started < 300  # not the timeout of the requests


def test_a_model_that_the_server_does_not_have() -> None:
    with tiny_server() as (url, _), pytest.raises(EngineError) as raised:
        collect(engine_at(url, model="gemma-9"), exam_requests(1), SAMPLED)
    message = str(raised.value)
    assert "does not have the model 'gemma-9'" in message
    assert f"its models: {MODEL}. Name one as --server-model" in message


def test_a_refused_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers repeat the key in their answer."""
    monkeypatch.setenv("LORACHAIN_API_KEY", "sk-secret-of-tests")

    class Refusing(Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.read_body()
            self.answer(401, {"error": f"Incorrect API key: {self.headers['Authorization']}\x1b[2J"})

        do_GET = do_POST  # noqa: N815

    with serving(Refusing) as url:
        for act in (
            lambda: collect(engine_at(url, api_key="sk-secret-of-tests"), exam_requests(1), SAMPLED),
            lambda: open_openai_engine(parse_address(url), MODEL, api_key="sk-secret-of-tests"),
        ):
            with pytest.raises(EngineError, match="LORACHAIN_API_KEY") as raised:
                act()
            assert "sk-secret" not in str(raised.value)
            assert "\x1b" not in str(raised.value)
    assert "sk-secret" not in repr(engine_at(url, api_key="sk-secret-of-tests"))


def test_a_server_that_is_not_there() -> None:
    with serving(Handler) as url:
        pass
    with pytest.raises(EngineError, match=r"cannot be reached .*; start the server, or correct --base-url"):
        open_openai_engine(parse_address(url), MODEL, api_key=None)
    with pytest.raises(EngineError, match=r"no usable answer in 2 attempts, the last: the connection failed"):
        collect(engine_at(url, retries=Retries(2, 0.01, 0.01)), exam_requests(1), SAMPLED)


def test_an_answer_of_absurd_size_is_refused() -> None:
    class Endless(Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.read_body()
            self.answer(200, b'{"choices": "' + b"x" * 3_000_000 + b'"}')

    with serving(Endless) as url, pytest.raises(EngineError, match="more than 1,051,648 bytes for at most 6 tokens"):
        collect(engine_at(url), exam_requests(1), SAMPLED)


def test_a_redirect_is_not_followed() -> None:
    class Moved(Handler):
        def do_POST(self) -> None:  # noqa: N802
            self.read_body()
            self.answer(307, {"moved": True}, {"Location": "http://127.0.0.1:1/elsewhere"})

    with serving(Moved) as url, pytest.raises(EngineError, match="refused a request with status 307"):
        collect(engine_at(url), exam_requests(1), SAMPLED)


def test_the_only_model_is_taken_and_the_version_is_recorded() -> None:
    with tiny_server() as (url, _):
        engine = open_openai_engine(parse_address(url), None, api_key=None)
        completions = open_openai_engine(parse_address(url), MODEL, api_key=None, interface="completions")
    assert engine.identity == EngineIdentity("openai", "tests 1.2.3", MODEL, None)
    assert completions.identity.engine == "openai-completions"
    with pytest.raises(ConfigError, match="concurrency is 0"):
        open_openai_engine(parse_address(url), MODEL, api_key=None, concurrency=0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://example.org/api/v1", "https://example.org:443/api/v1"),
        ("http://[::1]:30000", "http://[::1]:30000/v1"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    assert str(parse_address(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret-word@localhost:8000",
        "ftp://localhost",
        f"http://{'a' * 70}.org",
        "localhost:8000",
        "http://h:99999",
        "http://h?key=1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url") as raised:
        parse_address(url)
    assert "secret-word" not in str(raised.value)


def test_waits() -> None:
    retries = Retries(attempts=8, first_wait=1.0, longest_wait=60.0)
    for attempt in range(12):
        waits = [retries.wait(attempt, None) for _ in range(200)]
        assert 0 <= min(waits) < max(waits) <= min(60, 2**attempt)
    assert 5 <= retries.wait(0, 5.0) <= 6
    assert retries.wait(0, 1e9) <= 601
    assert retry_after_seconds({"retry-after": "7"}) == 7
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    later = retry_after_seconds(
        {"retry-after": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))}
    )
    assert later is not None
    assert 60 < later <= 90
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({}) is None
