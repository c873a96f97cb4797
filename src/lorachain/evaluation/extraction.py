"""The option that a generated answer names, by the rules of each protocol."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from lorachain.prompts import ANSWER_CUE
from lorachain.records import LETTERS

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
    applies it: the last match of the first pattern that matches; None where none does."""
    for pattern in _CASCADE:
        found = pattern.findall(text)
        if found:
            return LETTERS.index(found[-1].upper())
    return None


_FENCED = re.compile(r"```json\s*(\{.*?\})\s*```", re.DOTALL | re.IGNORECASE)
_OBJECT = re.compile(r"\{.*?\}", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{([ABCDE])\}", re.IGNORECASE)
_LETTER = re.compile(r"[ABCDE]", re.IGNORECASE)


def kormedeval_choice(text: str) -> int | None:
    """The benchmark authors' rule (`kormedeval` of github.com/baeseongsu/kormedmcqa_v): a fenced JSON object, or else
    the last object of all, that names a letter under 정답 or answer; else the first \\boxed{letter}; else None."""
    fenced = _FENCED.search(text)
    objects = [fenced.group(1)] if fenced else _OBJECT.findall(text)
    for written in reversed(objects):
        parsed = _parsed(written)
        for key in ("정답", "answer"):
            value = parsed.get(key)
            match = _LETTER.search(str(value)) if value is not None else None
            if match:
                return LETTERS.index(match.group().upper())
    boxed = _BOXED.search(text)
    return LETTERS.index(boxed.group(1).upper()) if boxed else None


def _parsed(written: str) -> dict[Any, Any]:
    """The object, read as JSON or as a Python literal ({'정답': 'A'}); empty where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(written)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, dict) else {}
    return {}


# The cue as it is trained, and with the narrow colon that a model may write instead.
_ANSWER_LINE = re.compile(rf"{ANSWER_CUE[:-1]}\s*[{ANSWER_CUE[-1]}:]\s*([^\n]+)")
_LETTER_FIRST = re.compile(r"\(?([A-E])(?:[.):,\s번]|$)")
_LETTER_LAST = re.compile(r"\(([A-E])\)\s*\.?\s*$")


def answer_line_complete(text: str) -> bool:
    """Whether an answer line stands in `text` from its cue to its newline: what follows changes nothing."""
    match = _ANSWER_LINE.search(text)
    return match is not None and match.end() < len(text)


def reasoned_choice(text: str, options: Sequence[str]) -> int | None:
    """The option that the first answer line (`정답： …`) after the reasoning names: `B. text`, `text (B)`, or an
    option's whole text; None where there is no such line or it names none. The letter wins over the text."""
    match = _ANSWER_LINE.search(text)
    if match is None:
        return None
    line = match.group(1).strip()
    letter = _LETTER_FIRST.match(line) or _LETTER_LAST.search(line)
    if letter:
        return LETTERS.index(letter.group(1))
    same = [i for i, option in enumerate(options) if _squeezed(option) == _squeezed(line)]
    return same[0] if len(same) == 1 else None


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split()).rstrip(".")
