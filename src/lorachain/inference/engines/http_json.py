"""JSON over HTTP with one deadline for the whole exchange and a limit on the answer's size."""

import http.client
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lorachain.errors import ConfigError
from lorachain.redaction import without_tokens

_CHUNK = 64 * 1024
_CONNECT_SECONDS = 30.0


class AnswerTooLargeError(Exception):
    """A server sends more than any answer takes."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    scheme: str
    host: str
    port: int
    path: str
    """In front of `/models` and `/chat/completions`, without a slash at its end."""

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        if self.scheme == "https" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def parse_address(url: str, option: str = "--base-url") -> Address:
    """`http://host:port`, with `/v1` where it has no path, as the servers document it.

    Args:
        option: where it was given, for messages.

    Raises:
        ConfigError: it is no such address, or contains a user name, a password or a query.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
        parts.path.encode("ascii")
    except ValueError as error:
        raise ConfigError(f"{option} {without_tokens(url)!r} is not an address: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{option} {without_tokens(url)!r} contains a user name or password, which would be kept in files; "
            "remove it and put the server's key into the environment variable LORACHAIN_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(
            f"{option} is {without_tokens(url)!r}; give the address that the server prints, such as "
            "http://localhost:8000/v1"
        )
    path = parts.path.rstrip("/") or "/v1"
    return Address(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


def exchange(
    address: Address,
    method: str,
    path: str,
    payload: Mapping[str, Any] | None,
    *,
    api_key: str | None,
    timeout: float,
    max_bytes: int,
    on_socket: Callable[[socket.socket], None] = lambda sock: None,
) -> HttpAnswer:
    """One request and its whole answer. Redirects are not followed: they could carry the key to another host.

    Args:
        timeout: seconds for the whole exchange, so that a server that sends a byte now and then does not keep it open.
        on_socket: gets the connected socket; whoever shuts it down ends the exchange.

    Raises:
        TimeoutError: it took longer. OSError, http.client.HTTPException: the connection failed or was cut.
        AnswerTooLargeError: the answer has more than `max_bytes`.
    """
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=min(timeout, _CONNECT_SECONDS))
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        shut_down(sock)

    with closing(connection):
        connection.connect()
        sock = connection.sock  # `connection` forgets it when it hands the response over
        sock.settimeout(timeout)
        on_socket(sock)
        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            return _exchanged(connection, method, address.path + path, payload, api_key, max_bytes)
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set():
                raise TimeoutError("timed out") from error
            raise
        finally:
            timer.cancel()


def _exchanged(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    payload: Mapping[str, Any] | None,
    api_key: str | None,
    max_bytes: int,
) -> HttpAnswer:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    body = None if payload is None else json.dumps(payload, ensure_ascii=False).encode()
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = bytearray()
    while part := response.read1(_CHUNK):
        content += part
        if len(content) > max_bytes:
            raise AnswerTooLargeError(f"more than {max_bytes:,} bytes")
    if response.length:  # read1 does not notice that the body was cut
        raise http.client.IncompleteRead(bytes(content), response.length)
    return HttpAnswer(response.status, {name.lower(): value for name, value in response.getheaders()}, bytes(content))


def shut_down(sock: socket.socket) -> None:
    """Ends what another thread does on the socket."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
