"""Servers with OpenAI's interface on loopback, and a proxy that injects faults before them."""

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conftest import make_text_model, make_tokenizer
from lorachain.inference.engines.base import Completion, Message, Sampling, TextEngine, TextRequest
from lorachain.inference.generate import generate
from lorachain.prompts import Prompt, render
from lorachain.tokens import TokenEncoder

MODEL = "tiny-gemma"


def exam_requests(count: int) -> list[TextRequest]:
    encoder = TokenEncoder(make_tokenizer(chat=True))
    requests = []
    for number in range(count):
        user = f"문제 {number} {'간심폐'[number % 3]}"
        requests.append(TextRequest(render(Prompt(user, ""), encoder.turns), (Message("user", user),), seed=number))
    return requests


def collect(
    engine: TextEngine,
    requests: Sequence[TextRequest],
    sampling: Sampling,
    stop: Callable[[str], bool] = lambda text: False,
) -> list[Completion]:
    """All completions, in the order of the requests; each came once and in the calling thread."""
    completions: dict[int, Completion] = {}
    caller = threading.get_ident()

    def on_completion(index: int, completion: Completion) -> None:
        assert threading.get_ident() == caller
        assert index not in completions
        completions[index] = completion

    engine.complete(requests, sampling, stop=stop, on_completion=on_completion)
    assert sorted(completions) == list(range(len(requests)))
    return [completions[i] for i in range(len(requests))]


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON, and writes no log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server with this handler."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def tiny_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that generates with a tiny model in both interfaces; its address, and the requests that it got."""
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer(chat=True))
    lock = threading.Lock()
    received: list[dict[str, Any]] = []

    class TinyServer(Handler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.answer(200, {"object": "list", "data": [{"id": MODEL, "owned_by": "tests"}]})
            elif self.path == "/version":
                self.answer(200, {"version": "1.2.3"})
            else:
                self.answer(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            request = json.loads(self.read_body())
            chat = self.path == "/v1/chat/completions"
            with lock:
                received.append({"path": self.path, "authorization": self.headers.get("Authorization"), **request})
                if request["model"] != MODEL:
                    self.answer(404, {"error": {"message": "The model does not exist."}})
                    return
                if chat:
                    ids = encoder.prompt_ids(Prompt(request["messages"][-1]["content"], ""))
                else:
                    ids = encoder.rendered_ids(request["prompt"])
                (generation,) = generate(
                    model,
                    encoder,
                    [ids],
                    stop=lambda text: False,
                    max_new_tokens=request["max_tokens"],
                    temperature=request["temperature"],
                    seeds=[request["seed"]],
                )
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if generation.ended else "length"}
            if chat:
                choice["message"] = {"role": "assistant", "content": generation.text}
            else:
                choice["text"] = generation.text
            self.answer(
                200, {"choices": [choice], "usage": {"completion_tokens": generation.tokens, "prompt_tokens": len(ids)}}
            )

    with serving(TinyServer) as url:
        yield url, received


FAULTS = ("429", "429 later", "500", "503", "cut", "cut chunk", "no answer", "reset", "slow", "slow bytes", "page",
          "no choices", "no text", "twice")  # fmt: skip


@contextmanager
def faulty_proxy(upstream: str, faults: Mapping[int, str]) -> Iterator[tuple[str, Counter[str]]]:
    """A proxy that does what `faults` says to the n-th request (from 0); its address, and what it did."""
    host, port = upstream.removeprefix("http://").removesuffix("/v1").split(":")
    done: Counter[str] = Counter()
    lock, ending = threading.Lock(), threading.Event()

    def forwarded(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()

    class Proxy(Handler):
        def do_GET(self) -> None:
            self.answer(*forwarded("GET", self.path, b""))

        def do_POST(self) -> None:
            body = self.read_body()
            with lock:
                fault = faults.get(done.total(), "none")
                done[fault] += 1
            if fault == "429":
                self.answer(429, {"error": "busy"}, {"Retry-After": "0"})
            elif fault == "429 later":
                self.answer(429, {"error": "busy"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
            elif fault in ("500", "503"):
                self.answer(int(fault), b"<html>oops</html>")
            elif fault == "no answer":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()
            elif fault == "slow":
                ending.wait(20)
            elif fault == "page":
                self.answer(200, b"<html>Welcome to the hotel's network</html>")
            elif fault == "no choices":
                self.answer(200, {"choices": [], "usage": {"completion_tokens": 1}})
            elif fault == "no text":
                choice = {"message": {"content": None}, "finish_reason": "stop"}
                self.answer(200, {"choices": [choice], "usage": {"completion_tokens": 1}})
            else:
                status, content = forwarded("POST", self.path, body)
                if fault == "twice":
                    status, content = forwarded("POST", self.path, body)
                if fault in ("cut", "slow bytes"):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.wfile.flush()
                    for byte in content[len(content) // 2 :] if fault == "slow bytes" else b"":
                        if ending.wait(0.5):
                            return
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                elif fault == "cut chunk":
                    self.send_response(status)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(content) // 2, content[: len(content) // 2]))
                else:
                    self.answer(status, content)

    Proxy.protocol_version = "HTTP/1.1"  # chunks exist only there
    Proxy.close_connection = True
    with serving(Proxy) as url:
        try:
            yield url, done
        finally:
            ending.set()
