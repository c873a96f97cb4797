"""The hub token never appears in a log, a manifest or a message, whoever wrote the text."""

import os
import re

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "hf_***"


def without_tokens(text: str) -> str:
    """The text with the environment's hub token, and whatever has a hub token's form, replaced."""
    for variable in _VARIABLES:
        token = os.environ.get(variable, "").strip()
        if token:
            text = text.replace(token, _HIDDEN)
    return _TOKEN.sub(_HIDDEN, text)
