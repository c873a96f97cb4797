"""Whether what a text says of the dictionary's terms agrees with the dictionary.

Three things are checked. A text about a question whose terms the dictionary knows speaks of one of them: a model that
lost the term reasons about another one. A naming, a sentence with an English name of the dictionary and a cue for it,
must contain a Korean term of that name; cues are "…의 한국어 병명은 …", "우리말로", and a Korean term followed by the
name in brackets. A sentence that is a term's definition with one word exchanged contradicts it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from lorachain.records import Term

_SENTENCE = re.compile(r"[^.!?\n]+(?:\.(?=[A-Za-z0-9가-힣])[^.!?\n]*)*[.!?]?")
_NAMING = re.compile(
    r"한국어|우리말|국문|영어|영문|병명|진단명|용어|명칭|이름|(?:이|라)라고\s?(?:한다|부른다|불린다|합니다|부릅니다)|을\s뜻|를\s뜻|의미"
)
_LATIN_RUN = re.compile(r"[A-Za-z][A-Za-z0-9' ,/-]*[A-Za-z0-9]")
_BRACKETED_AFTER = re.compile(r"[가-힣]\s?[(\[]\s?\Z")
_FEWEST_WORDS = 4
"""Of a definition that one exchanged word contradicts."""


class TermCheck:
    """The dictionary of a chain, indexed for checking texts."""

    def __init__(self, entries: Sequence[Term]) -> None:
        self._korean_of: dict[str, set[str]] = defaultdict(set)  # English name, folded -> Korean terms
        self._definitions: dict[str, set[str]] = defaultdict(set)  # term -> definitions that begin with the term
        for entry in entries:
            for name in (entry.english or "").split(";"):
                if name := _folded(name):
                    self._korean_of[name].add(entry.term)
            if entry.definition and entry.definition.startswith(entry.term):
                self._definitions[entry.term].add(entry.definition)
        self._most_words = max((len(name.split()) for name in self._korean_of), default=0)
        self._terms_by_start: dict[str, list[str]] = defaultdict(list)
        for term in self._definitions:
            self._terms_by_start[term[:2]].append(term)

    def names_in(self, text: str) -> list[str]:
        """The dictionary's English names in `text`, folded, the longest at each place."""
        names = []
        for run in _LATIN_RUN.finditer(text):
            words = _folded(run.group()).split()
            start = 0
            while start < len(words):
                ends = range(min(len(words), start + self._most_words), start, -1)
                candidates = (" ".join(words[start:end]).rstrip(",") for end in ends)
                name = next((name for name in candidates if name in self._korean_of), None)
                if name is not None:
                    names.append(name)
                start += len(name.split()) if name is not None else 1
        return names

    def agrees(self, text: str) -> bool:
        """Whether no sentence of `text` contradicts the dictionary."""
        return all(self._sentence_agrees(match.group().strip()) for match in _SENTENCE.finditer(text))

    def speaks_of(self, question: str, text: str) -> bool:
        """Whether `text` has one of the dictionary's English names that `question` has, or a Korean term of it; True
        where the question has none."""
        names = self.names_in(question)
        if not names:
            return True
        folded = _folded(text)
        return any(name in folded or any(term in text for term in self._korean_of[name]) for name in names)

    def _sentence_agrees(self, sentence: str) -> bool:
        for name in self.names_in(sentence):
            if not self._is_naming(sentence, name):
                continue
            if not any(term in sentence for term in self._korean_of[name]):
                return False
        return not any(self._contradicts(sentence, term) for term in self._terms_by_start.get(sentence[:2], ()))

    def _is_naming(self, sentence: str, name: str) -> bool:
        start = sentence.casefold().find(name)
        return _NAMING.search(sentence) is not None or (
            start >= 0 and _BRACKETED_AFTER.search(sentence[max(0, start - 8) : start]) is not None
        )

    def _contradicts(self, sentence: str, term: str) -> bool:
        """Whether the sentence is a definition of `term` with one word exchanged, and not another definition of it."""
        if not sentence.startswith(term):
            return False
        words = _words(sentence)
        definitions = [_words(definition) for definition in self._definitions[term]]
        return words not in definitions and any(
            len(other) == len(words) >= _FEWEST_WORDS and sum(a != b for a, b in zip(other, words, strict=True)) == 1
            for other in definitions
        )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(sentence: str) -> list[str]:
    return sentence.rstrip(".!? ").split()
