"""Keeps hub tokens out of logs, files and messages, whatever wrote the text."""

import os
import re
from collections.abc import Mapping

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "hf_***"


def without_tokens(text: str) -> str:
    """The text with the environment's hub token, and anything that has the form of a hub token, replaced."""
    for variable in _VARIABLES:
        token = os.environ.get(variable, "").strip()
        if token:
            text = text.replace(token, _HIDDEN)
    return _TOKEN.sub(_HIDDEN, text)


def without_tokens_in(value: object) -> object:
    """A JSON value with every string in it, keys included, passed through `without_tokens`."""
    if isinstance(value, str):
        return without_tokens(value)
    if isinstance(value, Mapping):
        return {without_tokens(str(key)): without_tokens_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_tokens_in(item) for item in value]
    return value
