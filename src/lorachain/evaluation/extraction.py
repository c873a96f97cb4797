"""The option that a published protocol reads from a generated answer; `answer_line` has the rules of our own."""

import ast
import json
import re
from typing import Any

from lorachain.evaluation.answer_line import answer_line_complete, reasoned_choice
from lorachain.records import LETTERS

__all__ = ["answer_line_complete", "kormedeval_choice", "lm_eval_choice", "reasoned_choice"]

# Each unbounded repeat begins after a character that it cannot match, so that a run of blanks is scanned once.
_CASCADE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"정답[:\s]*([ABCDE])",
        r"정답은\s*([ABCDE])\s*입니다",
        r"\b([ABCDE])\.",
        r"\b([ABCDE])\b",
    )
]


def lm_eval_choice(text: str) -> int | None:
    """The cascade of KorMedMCQA's appendix B (Kweon et al. 2024, arXiv 2403.01469), as lm-evaluation-harness 0.4.13
    applies it: the last match of the first pattern that matches; None if none does."""
    for pattern in _CASCADE:
        letters = pattern.findall(text)
        if letters:
            return LETTERS.index(letters[-1].upper())
    return None


# The published rules are r"```json\s*(\{.*?\})\s*```" and r"\{.*?\}"; on unclosed braces those take quadratic time.
_FENCE_OPENS = re.compile(r"```json\s*\{", re.IGNORECASE)
_FENCE_CLOSES = re.compile(r"\}\s*```")
_BOXED = re.compile(r"\\boxed\{([ABCDE])\}", re.IGNORECASE)
_LETTER = re.compile(r"[ABCDE]", re.IGNORECASE)


def kormedeval_choice(text: str) -> int | None:
    """The benchmark authors' rule (`kormedeval` of github.com/baeseongsu/kormedmcqa_v): a fenced JSON object, or else
    the last of all objects, that has a letter under 정답 or answer; else the first \\boxed{letter}; else None."""
    fenced = _fenced_object(text)
    objects = [fenced] if fenced is not None else _objects(text)
    for source in reversed(objects):
        parsed = _parsed(source)
        for key in ("정답", "answer"):
            value = parsed.get(key)
            match = _LETTER.search(str(value)) if value is not None else None
            if match:
                return LETTERS.index(match.group().upper())
    boxed = _BOXED.search(text)
    return LETTERS.index(boxed.group(1).upper()) if boxed else None


def _fenced_object(text: str) -> str | None:
    """From the first fence's brace to the first closing brace before a fence."""
    opening = _FENCE_OPENS.search(text)
    if opening is None:
        return None
    start = opening.end() - 1
    closing = _FENCE_CLOSES.search(text, start + 1)
    return text[start : closing.start() + 1] if closing else None


def _objects(text: str) -> list[str]:
    """From each brace to the next closing one, without overlap."""
    objects = []
    start = text.find("{")
    while start >= 0:
        end = text.find("}", start + 1)
        if end < 0:
            break
        objects.append(text[start : end + 1])
        start = text.find("{", end + 1)
    return objects


def _parsed(source: str) -> dict[Any, Any]:
    """The object, read as JSON or as a Python literal ({'정답': 'A'}); empty if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(source)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, dict) else {}
    return {}
