"""What a written explanation is like: its language, the option that it names last, where its answer begins."""

import re
from collections.abc import Iterable

from lorachain.evaluation.answer_line import answer_lines
from lorachain.letter_uses import Kind, letter_uses
from lorachain.records import LETTERS, ExamQuestion

_HANGUL = re.compile(r"[가-힣ᄀ-ᇿㄱ-ㆎ]")
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'-]*")


def hangul_share(text: str, allowed_terms: Iterable[str] = ()) -> float:
    """Share of Hangul among the letters of `text`, words of the allowed terms left out; 1.0 where nothing remains."""
    allowed = {word.casefold() for term in allowed_terms for word in _LATIN_WORD.findall(term)}
    hangul = len(_HANGUL.findall(text))
    latin: list[str] = _LATIN_WORD.findall(text)
    foreign = sum(len(word) for word in latin if word.casefold() not in allowed)
    other = sum(map(str.isalpha, text)) - hangul - sum(map(len, latin))
    letters = hangul + foreign + max(other, 0)
    return hangul / letters if letters else 1.0


def last_named(reasoning: str, shown: ExamQuestion) -> int | None:
    """Index of the option that `reasoning` names last, by its text or by a letter that certainly refers to it; None if
    it names none. Of options whose names end at the same place (one contains the other) the longer is named."""
    named = [  # where the name ends, its length, the option
        (use.index + 1, 1, LETTERS.index(use.letter))
        for use in letter_uses(reasoning, shown.options, shown.question)
        if use.kind is Kind.REFERENCE and use.letter in LETTERS
    ]
    for number, option in enumerate(shown.options):
        text = option.strip()
        if text and (start := reasoning.rfind(text)) >= 0:
            named.append((start + len(text), len(text), number))
    return max(named)[2] if named else None


def names_another(reasoning: str, shown: ExamQuestion, chosen: int) -> bool:
    """Whether the option that the reasoning names last is not the one answered. Reasoning that names none does not
    contradict its answer."""
    named = last_named(reasoning, shown)
    return named is not None and named != chosen


def reasoning_of(text: str) -> str:
    """What comes before the answer line."""
    lines = answer_lines(text)
    return (text[: lines[0].start] if lines else text).strip()
