"""A stand-in for the Hugging Face hub: a real HTTP server on the loopback address that speaks what a push needs.

Account, repository creation, upload modes, LFS batches, uploads and commits, as `huggingface_hub` calls them. It keeps
what it was sent, and fails where it is asked to.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import huggingface_hub.constants as hub_constants
import pytest

TOKEN = "hf_" + "Kx7" * 11
COMMIT = "c0ffee" * 6 + "abcd"


@dataclass
class Repository:
    private: bool
    files: dict[str, str] = field(default_factory=dict)
    """Name to object id: SHA-256 of a large file, git's SHA-1 of a small one."""
    commits: int = 0
    contents: dict[str, bytes] = field(default_factory=dict)
    """Of the small files."""


@dataclass
class Fault:
    """Fails the requests that match, the first `skip` of them excepted, `times` times."""

    method: str
    path: str
    """A regular expression."""
    what: int | Literal["cut", "cut after"]
    """A status, a connection that is cut before the request is handled, or after it."""
    times: int = 1
    skip: int = 0


@dataclass
class Hub:
    """What the hub has and saw."""

    url: str = ""
    user: str = "kim"
    organizations: tuple[str, ...] = ("lab",)
    role: str = "write"
    default_private: bool | None = None
    """What a new repository is, whatever was asked for."""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: Counter[str] = field(default_factory=Counter)
    """Completed uploads by object id."""
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, method: str, path: str) -> int | str | None:
        for fault in self.faults:
            if fault.method == method and re.search(fault.path, path):
                if fault.skip:
                    fault.skip -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault.what
        return None


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None: ...

        def handle_one(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self._chunk, b""))
            with lock:
                hub.requests.append(f"{self.command} {path}")
                fault = hub.fault(self.command, path)
                if fault == "cut":
                    self._cut()
                    return
                if isinstance(fault, int):
                    self._answer(fault, {"error": f"injected with {TOKEN}"})
                    return
                authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                if path.startswith("/lfs/objects/"):
                    assert not self.headers.get("Authorization"), "a signed address needs no token"
                elif not authorized:
                    self._answer(401, {"error": "Invalid credentials in Authorization header"})
                    return
                status, answer = self._route(path, body)
                if fault == "cut after":
                    self._cut()
                    return
                self._answer(status, answer)

        do_GET = do_POST = do_PUT = handle_one  # noqa: N815 - http.server's names

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline().strip(), 16)
            data = self.rfile.read(size)
            self.rfile.readline()
            return data

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(2)

        def _answer(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(data)

        def _route(self, path: str, body: bytes) -> tuple[int, Any]:
            if path == "/api/whoami-v2":
                token = {"displayName": "test", "role": hub.role}
                orgs = [{"name": name} for name in hub.organizations]
                return 200, {"name": hub.user, "type": "user", "orgs": orgs, "auth": {"accessToken": token}}
            if path == "/api/validate-yaml":
                return 200, {"errors": [], "warnings": []}
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if path.startswith("/lfs/objects/"):
                return self._upload(path.rpartition("/")[2], body)
            if path.startswith("/lfs/verify/"):
                wanted = json.loads(body)
                return (200 if wanted["oid"] in hub.objects else 404), {}
            if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self._batch(json.loads(body))
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision)/main)?", path):
                repository = hub.repositories.get(match[1])
                if repository is None:
                    return 404, {"error": "Repository not found"}
                if match[2] == "preupload":
                    return self._modes(repository, json.loads(body))
                if match[2] == "commit":
                    return self._commit(match[1], repository, body)
                return 200, {"id": match[1], "private": repository.private, "sha": COMMIT, "siblings": [], "tags": []}
            return 404, {"error": f"no such address: {path}"}

        def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
            name = f"{wanted.get('organization') or hub.user}/{wanted['name']}"
            if name in hub.repositories:
                return 409, {"error": "exists", "url": f"{hub.url}/{name}"}
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            hub.repositories[name] = Repository(private if hub.default_private is None else hub.default_private)
            return 200, {"url": f"{hub.url}/{name}", "id": name}

        def _modes(self, repository: Repository, wanted: dict[str, Any]) -> tuple[int, Any]:
            large = (".safetensors", ".gguf", "tokenizer.json")
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                    "oid": repository.files.get(file["path"]),
                }
                for file in wanted["files"]
            ]
            return 200, {"files": files}

        def _batch(self, wanted: dict[str, Any]) -> tuple[int, Any]:
            objects = []
            for one in wanted["objects"]:
                oid = one["oid"]
                upload = {"href": f"{hub.url}/lfs/objects/{oid}"}
                verify = {"href": f"{hub.url}/lfs/verify/{oid}"}
                missing = {} if oid in hub.objects else {"actions": {"upload": upload, "verify": verify}}
                objects.append({"oid": oid, "size": one["size"], **missing})
            return 200, {"transfer": "basic", "objects": objects}

        def _upload(self, oid: str, body: bytes) -> tuple[int, Any]:
            assert hashlib.sha256(body).hexdigest() == oid
            hub.objects[oid] = body
            hub.uploads[oid] += 1
            return 200, {}

        def _commit(self, name: str, repository: Repository, body: bytes) -> tuple[int, Any]:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "lfsFile":
                    assert value["oid"] in hub.objects, "a commit names only what was uploaded"
                    repository.files[value["path"]] = value["oid"]
                elif line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    repository.contents[value["path"]] = content
                    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)
                    repository.files[value["path"]] = git.hexdigest()
            repository.commits += 1
            return 200, {"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None}

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The server, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in, which `huggingface_hub` takes for the hub."""
    with running_hub() as server:
        monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)  # files go through LFS
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
