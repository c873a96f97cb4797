"""Keeps held-out exam questions out of training data: plain text, dictionaries, other exams."""

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lorachain.data.normalization import limit_marks
from lorachain.records import ExamQuestion

ANCHOR = 20
"""Normalized characters: stems of this length or more are searched for by themselves."""
SHORT_ANCHOR = 10
"""Shorter stems ("옳은 것은?") are ordinary language: they count only together with all five options."""
_NO_WORD = re.compile(r"[\W_]+")


def normalized(text: str) -> str:
    """Letters and digits only, compatibility forms unified (NFKC), case folded: what survives copying and quoting."""
    text = unicodedata.normalize("NFKC", limit_marks(text)).casefold()
    return _NO_WORD.sub("", unicodedata.normalize("NFKC", limit_marks(text)))


class ExamScreen:
    """Finds a set of questions in texts and among other questions.

    One pass over a text collects the anchors in it (the first 20 or 10 characters of a stem) by set membership of every
    window, at a cost independent of the number of questions. Only stems whose anchor occurs are then searched for, each
    once, as is each option: the time is linear in the text's length whatever the text repeats.
    """

    def __init__(self, questions: Iterable[ExamQuestion]) -> None:
        self._long: dict[str, set[str]] = defaultdict(set)
        self._short: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
        self._by_options: set[tuple[str, frozenset[str]]] = set()
        self._by_answer: set[tuple[str, str]] = set()
        for question in questions:
            stem = normalized(question.question)
            options = _options(question)
            self._by_options.add((stem, options))
            self._by_answer.add((stem, normalized(question.answer_text)))
            if len(stem) >= ANCHOR:
                self._long[stem[:ANCHOR]].add(stem)
            elif len(stem) >= SHORT_ANCHOR:
                self._short[stem[:SHORT_ANCHOR]].append((stem, options))

    def contains(self, text: str) -> bool:
        """Whether the text contains the stem of a question: one of at least 20 normalized characters by itself, one of
        10 to 19 together with all its options. Shorter stems are recognized by `same_question` only."""
        plain = normalized(text)
        for anchor in _anchors_in(plain, self._long, ANCHOR):
            if any(_occurs(stem, plain) for stem in self._long[anchor]):
                return True
        occurs = functools.cache(lambda part: _occurs(part, plain))  # many questions share their short stem or options
        return any(
            occurs(stem) and all(map(occurs, options))
            for anchor in _anchors_in(plain, self._short, SHORT_ANCHOR)
            for stem, options in self._short[anchor]
        )

    def same_question(self, question: ExamQuestion) -> bool:
        """Whether it is one of the questions: the same stem, and the same options in any order or the same right
        answer. A stem alone is not enough: "환경관리 방법으로 옳은 것은?" is asked each year, with other options."""
        stem = normalized(question.question)
        same_answer = (stem, normalized(question.answer_text)) in self._by_answer
        return same_answer or (stem, _options(question)) in self._by_options


def without_held_out(
    questions: Sequence[ExamQuestion], held_out: Iterable[ExamQuestion]
) -> tuple[list[ExamQuestion], int]:
    """The questions that are none of `held_out`, and how many were left out."""
    screen = ExamScreen(held_out)
    kept = [question for question in questions if not screen.same_question(question)]
    return kept, len(questions) - len(kept)


def content_key(question: ExamQuestion) -> tuple[str, str, frozenset[str]]:
    """Equal for two versions of a question, whatever the order of their options."""
    return normalized(question.question), normalized(question.answer_text), _options(question)


def _options(question: ExamQuestion) -> frozenset[str]:
    return frozenset(map(normalized, question.options))


def _anchors_in(text: str, anchors: Mapping[str, object], length: int) -> list[str]:
    """The anchors of `length` characters that occur in the text, each once, in the order of the text."""
    if not anchors:
        return []
    starts = [i for i in range(len(text) - length + 1) if text[i : i + length] in anchors]
    return list(dict.fromkeys(text[start : start + length] for start in starts))


def _occurs(part: str, text: str) -> bool:
    return part in text
