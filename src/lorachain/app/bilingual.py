"""Gradio components whose texts are in both languages and follow the switch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lorachain.report.document.blocks import Language, Text

_Words = Text | Sequence[tuple[Text, str]]
"""A text, or choices with their values."""


@dataclass(slots=True)
class Labels:
    """Makes components, and knows their texts in the other language."""

    language: Language
    components: list[Any] = field(default_factory=list)
    _words: list[dict[str, _Words]] = field(default_factory=list)

    def make(self, kind: Any, words: dict[str, _Words], **options: Any) -> Any:
        """A component of that kind.

        Args:
            words: what differs between the languages, by the component's parameter.
            options: its other parameters.
        """
        component = kind(**_in(words, self.language), **options)
        self.components.append(component)
        self._words.append(words)
        return component

    def updates(self, language: Language) -> list[Any]:
        """For `components`, in their order."""
        return [gr.update(**_in(given, language)) for given in self._words]


def _in(given: dict[str, _Words], language: Language) -> dict[str, Any]:
    return {name: _chosen(value, language) for name, value in given.items()}


def _chosen(given: _Words, language: Language) -> Any:
    if isinstance(given, Text):
        return given.ko if language == "ko" else given.en
    return [(_chosen(text, language), value) for text, value in given]
