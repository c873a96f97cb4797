"""Keeps secrets out of logs, files and messages, and control characters out of the terminal."""

import os
import re
from collections.abc import Mapping
from typing import TextIO

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9][A-Za-z0-9._-]{18,}[A-Za-z0-9]")
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,20}://)[^\s/@]{1,200}@", re.IGNORECASE)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")
API_KEY_VARIABLES = ("LORACHAIN_API_KEY", "OPENAI_API_KEY")
"""Of a text engine's server, in the order of preference."""
_HIDDEN = "hf_***"
_SHORTEST = 8
"""A shorter value of a token variable is no token; replacing it would damage ordinary text."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def without_tokens(text: str) -> str:
    """The text with the environment's hub token and API keys, anything of a hub token's form, and credentials in URLs
    replaced."""
    for variable in (*_VARIABLES, *API_KEY_VARIABLES):
        token = os.environ.get(variable, "").strip()
        if len(token) >= _SHORTEST:
            text = text.replace(token, _HIDDEN if variable in _VARIABLES else "***")
    return _URL_CREDENTIALS.sub(r"\g<scheme>***@", _TOKEN.sub(_HIDDEN, text))


def without_tokens_in(value: object) -> object:
    """A JSON value with every string in it, keys included, passed through `without_tokens`."""
    if isinstance(value, str):
        return without_tokens(value)
    if isinstance(value, Mapping):
        return {without_tokens(str(key)): without_tokens_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_tokens_in(item) for item in value]
    return value


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that lorachain starts: without variables that hold secrets."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def printable(text: str) -> str:
    """Text for the terminal: control characters, escape sequences and direction marks are shown as `\\xNN`.

    A line break stays only where our own text continues with an indented line: a name from a file cannot begin a line
    of its own and so cannot look like a message of lorachain.
    """
    text = _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
    return re.sub(r"\n(?!  |$)", r"\\n", text)


class RedactedStream:
    """A text stream that hides tokens in everything that is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_tokens(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
