"""Keeps held-out exam questions out of what is trained on: plain text, dictionaries, other exams."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lorachain.records import ExamQuestion

ANCHOR = 20
"""Normalized characters: stems of this length or more are looked for by themselves."""
SHORT_ANCHOR = 10
"""Shorter stems ("옳은 것은?") are ordinary language: they count only together with all five options."""
_NO_WORD = re.compile(r"[\W_]+")


def normalized(text: str) -> str:
    """Letters and digits only, compatibility forms unified (NFKC), case folded: what survives copying about."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NO_WORD.sub("", folded)


class ExamScreen:
    """Finds a set of questions in text and among other questions.

    A text is looked through once for anchors (the first 20 characters of a stem), by set membership of every window,
    so its cost does not grow with the number of questions; only where an anchor stands is the whole stem compared.
    """

    def __init__(self, questions: Iterable[ExamQuestion]) -> None:
        self._long: dict[str, list[str]] = defaultdict(list)
        self._short: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
        self._by_options: set[tuple[str, frozenset[str]]] = set()
        self._by_answer: set[tuple[str, str]] = set()
        for question in questions:
            stem = normalized(question.question)
            options = _options(question)
            self._by_options.add((stem, options))
            self._by_answer.add((stem, normalized(question.answer_text)))
            if len(stem) >= ANCHOR:
                self._long[stem[:ANCHOR]].append(stem)
            elif len(stem) >= SHORT_ANCHOR:
                self._short[stem[:SHORT_ANCHOR]].append((stem, options))

    def contains(self, text: str) -> bool:
        """Whether a question's stem stands in the text: one of at least 20 normalized characters by itself, one of 10
        to 19 together with all its options. Shorter stems are known by `same_question` only."""
        plain = normalized(text)
        for anchor, start in _anchors(plain, self._long, ANCHOR):
            if any(plain.startswith(stem, start) for stem in self._long[anchor]):
                return True
        return any(
            plain.startswith(stem, start) and all(option in plain for option in options)
            for anchor, start in _anchors(plain, self._short, SHORT_ANCHOR)
            for stem, options in self._short[anchor]
        )

    def same_question(self, question: ExamQuestion) -> bool:
        """Whether it is one of the questions: the same stem, and the same options in any order or the same right
        answer. A stem alone is not enough: "환경관리 방법으로 옳은 것은?" is asked each year, with other options."""
        stem = normalized(question.question)
        same_answer = (stem, normalized(question.answer_text)) in self._by_answer
        return same_answer or (stem, _options(question)) in self._by_options


def without_held_out(train: Sequence[ExamQuestion], held_out: Iterable[ExamQuestion]) -> tuple[list[ExamQuestion], int]:
    """The training questions that are none of `held_out` (dev and few-shot), and how many were dropped."""
    screen = ExamScreen(held_out)
    kept = [question for question in train if not screen.same_question(question)]
    return kept, len(train) - len(kept)


def _options(question: ExamQuestion) -> frozenset[str]:
    return frozenset(map(normalized, question.options))


def _anchors(text: str, wanted: Mapping[str, object], length: int) -> list[tuple[str, int]]:
    """Where windows of `length` characters are anchors: (anchor, start)."""
    if not wanted:
        return []
    return [(text[i : i + length], i) for i in range(len(text) - length + 1) if text[i : i + length] in wanted]
