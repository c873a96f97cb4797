"""Finds held-out questions in texts and among exam questions, copied, reformatted or partly reworded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lorachain.data.decontamination import SHORT_ANCHOR, ExamScreen, normalized
from lorachain.data.gates.question_index import (
    QuestionHashes,
    QuestionIndex,
    build_index,
    owners_of,
    question_hashes,
    text_number,
)
from lorachain.data.gates.skeleton import Grams, Hashes, Positions
from lorachain.records import ExamQuestion

MatchKind = Literal["verbatim", "containment", "reworded"]
"""`verbatim`: the text has the stem letter for letter (`data.decontamination`). `containment`: it has enough of the
n-grams of the stem, or of stem and options, in one place. `reworded`: the options, and part of the stem."""

LONG_STEM = 12
"""Distinct n-grams from which a stem counts by itself: about 20 characters, as `data.decontamination.ANCHOR`."""
ENOUGH_OPTIONS = 6
"""Distinct n-grams of the options from which they can tell one question from another."""
REWORDED_OPTIONS, REWORDED_STEM = 0.9, 0.3
_CANDIDATE = 0.3
"""Share of a stem's rarer n-grams that a text must have anywhere before it is looked at more closely."""


@dataclass(frozen=True, slots=True)
class Match:
    """A held-out question that was found."""

    text: int
    """Number of the text in its batch."""
    questions: str
    """Name of the set."""
    question: str
    kind: MatchKind
    share: float
    """Of the n-grams of the stem that are in the text, in one place."""


class Contamination:
    """Searches batches of texts for several sets of questions.

    Args:
        known: sets whose texts are known, by name: they are searched for letter for letter too.
        hashed: sets that are known by their hashes only.
        threshold: share of n-grams that makes a match.
        stem_alone: whether a long stem counts without its options unless it is there letter for letter. Not in a
            dictionary: a question that describes what it asks for has the words of the definition.
    """

    def __init__(
        self,
        known: Sequence[tuple[str, Sequence[ExamQuestion]]],
        hashed: Sequence[QuestionIndex],
        threshold: float,
        *,
        stem_alone: bool = True,
    ) -> None:
        self._threshold, self._stem_alone = threshold, stem_alone
        self._indexes = [build_index(name, question_hashes(questions)) for name, questions in known] + list(hashed)
        self._screens = [[ExamScreen([question]) for question in questions] for _, questions in known]
        self._same = [ExamScreen(questions) for _, questions in known]
        # A stem without n-grams that start a comparison is searched for in every text.
        self._short = [
            [
                number
                for number, question in enumerate(questions)
                if not self._indexes[position].rare[number] and len(normalized(question.question)) >= SHORT_ANCHOR
            ]
            for position, (_, questions) in enumerate(known)
        ]
        self._short_screens = [
            ExamScreen([questions[number] for number in self._short[position]])
            for position, (_, questions) in enumerate(known)
        ]

    def in_texts(self, texts: Sequence[str], batch: Grams) -> list[Match]:
        """The questions in running text, by text and question.

        Args:
            batch: the n-grams of `texts`.
        """
        return [match for position in range(len(self._indexes)) for match in self._in_texts(position, texts, batch)]

    def _in_texts(self, position: int, texts: Sequence[str], batch: Grams) -> list[Match]:
        index = self._indexes[position]
        hashes = index.salted(batch.hashes)
        at, keys = index.find(hashes)
        of_text = text_number(batch, at)
        bounds = np.searchsorted(of_text, np.arange(len(texts) + 1))
        matches = []
        for text, number in _candidates(index, of_text, keys):
            inside = slice(bounds[text], bounds[text + 1])
            match = self._examine(position, number, texts[text], at[inside], index.keys[keys[inside]])
            if match is not None:
                kind, share = match
                matches.append(Match(text, index.name, index.questions[number].id, kind, share))
        if position < len(self._screens):
            matches += self._short_stems(position, texts)
        return matches

    def _examine(
        self, position: int, number: int, text: str, at: Positions, hashes: Hashes
    ) -> tuple[MatchKind, float] | None:
        question = self._indexes[position].questions[number]
        share = _coverage(question.stem, at, hashes, _window(question.stem_length))
        complete = bool(np.isin(question.stem, hashes).all())
        if complete and position < len(self._screens) and self._screens[position][number].contains(text):
            return "verbatim", share
        if self._stem_alone and len(question.stem) >= LONG_STEM and share >= self._threshold:
            return "containment", share
        options = question.all_options
        if len(options) < ENOUGH_OPTIONS or share < REWORDED_STEM:
            return None
        both = np.union1d(question.stem, options)
        together = _coverage(both, at, hashes, _window(question.length))
        of_options = _coverage(options, at, hashes, _window(question.length))
        if share >= self._threshold and together >= self._threshold and of_options >= self._threshold:
            return "containment", share
        if of_options >= REWORDED_OPTIONS and together >= REWORDED_STEM:
            return "reworded", share
        return None

    def _short_stems(self, position: int, texts: Sequence[str]) -> list[Match]:
        if not self._short[position]:
            return []
        index, matches = self._indexes[position], []
        for text, content in enumerate(texts):
            if self._short_screens[position].contains(content):
                number = next(n for n in self._short[position] if self._screens[position][n].contains(content))
                matches.append(Match(text, index.name, index.questions[number].id, "verbatim", 1.0))
        return matches

    def same_questions(self, questions: Sequence[ExamQuestion], batch: Grams) -> list[Match]:
        """The held-out questions among `questions`. A similar stem alone is not enough: "환경관리 방법으로 옳은 것은?"
        is asked each year, with other options.

        Args:
            batch: the n-grams of each question's stem and options, one text a question.
        """
        plain = question_hashes(questions)
        matches = []
        for position, index in enumerate(self._indexes):
            salted = plain if not index.salt else question_hashes(questions, index.salt)
            at, keys = index.find(index.salted(batch.hashes))
            matched: set[int] = set()
            for text, number in _candidates(index, text_number(batch, at), keys):
                held_out = index.questions[number]
                share = _common_share(held_out.stem, salted[text].stem)
                options = _same_options(held_out, salted[text])
                answers = held_out.whole_options[held_out.answer], salted[text].whole_options[salted[text].answer]
                same_answer = share == 1.0 and answers[0] == answers[1]
                if share >= self._threshold and (options >= self._threshold or same_answer):
                    # Another version of it, or letter for letter the same: the latter is never kept.
                    same = position < len(self._same) and self._same[position].same_question(questions[text])
                    kind: MatchKind = "verbatim" if same else "containment"
                    matches.append(Match(text, index.name, held_out.id, kind, share))
                    matched.add(text)
            if position < len(self._same):
                matches += self._verbatim_questions(position, questions, matched)
        return matches

    def _verbatim_questions(self, position: int, questions: Sequence[ExamQuestion], matched: set[int]) -> list[Match]:
        """Those that `ExamScreen.same_question` recognizes and the n-grams did not: their stems are short."""
        matches = []
        for text, question in enumerate(questions):
            if text not in matched and self._same[position].same_question(question):
                index = self._indexes[position]
                number = next(
                    (n for n, screen in enumerate(self._screens[position]) if screen.same_question(question)), None
                )
                if number is not None:
                    matches.append(Match(text, index.name, index.questions[number].id, "verbatim", 1.0))
        return matches


def _candidates(index: QuestionIndex, of_text: Positions, keys: Positions) -> list[tuple[int, int]]:
    """(text, question) pairs where the text has enough of the rarer n-grams of the stem, anywhere."""
    if not len(keys):
        return []
    distinct = np.unique(of_text * len(index.keys) + keys)
    texts, keys = np.divmod(distinct, len(index.keys))
    where, owners = owners_of(index, keys)
    pairs, counts = np.unique(texts[where] * len(index.questions) + owners, return_counts=True)
    enough = counts >= np.maximum(1, np.ceil(_CANDIDATE * index.rare[pairs % max(len(index.questions), 1)]))
    return [divmod(pair, len(index.questions)) for pair in pairs[enough].tolist()]


def _window(length: int) -> int:
    """Characters within which the n-grams of a part of `length` characters must be."""
    return length + length // 2 + 40


def _coverage(wanted: Hashes, at: Positions, hashes: Hashes, window: int) -> float:
    """The largest share of the distinct n-grams `wanted` that lie within `window` characters of each other.

    Args:
        wanted: sorted.
        at: positions of n-grams, ascending. hashes: the n-grams there.
    """
    if not len(wanted) or not len(hashes):
        return 0.0
    number = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    same = wanted[number] == hashes
    places, numbers = at[same].tolist(), number[same].tolist()
    inside: dict[int, int] = {}
    best = first = 0
    for place, current in zip(places, numbers, strict=True):
        inside[current] = inside.get(current, 0) + 1
        while places[first] < place - window:
            left = numbers[first]
            inside[left] -= 1
            if not inside[left]:
                del inside[left]
            first += 1
        best = max(best, len(inside))
    return best / len(wanted)


def _common_share(one: Hashes, other: Hashes) -> float:
    """How much of the larger of two stems is in the other; equal empty sets are no evidence."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / max(len(one), len(other)) if common else 0.0


def _same_options(one: QuestionHashes, other: QuestionHashes) -> float:
    """The mean over options of how much of each is among the options of the other question, in any order."""
    elsewhere = other.all_options
    shares = []
    for grams, whole in zip(one.options, one.whole_options, strict=True):
        contained = len(np.intersect1d(grams, elsewhere, assume_unique=True)) / len(grams) if len(grams) else 0.0
        shares.append(1.0 if whole in other.whole_options else contained)
    return sum(shares) / len(shares)
