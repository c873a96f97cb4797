"""Held-out questions as hashes of their n-grams: what texts are compared with, and all we know of a test split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lorachain.data.gates.skeleton import Grams, Hashes, Positions, grams, mixed, skeletons, whole_hashes
from lorachain.records import ExamQuestion

COMMON = 64
"""An n-gram that more questions have is ordinary language: it starts no comparison."""
_PREFILTER_BITS = 22


@dataclass(frozen=True, slots=True)
class QuestionHashes:
    """One question: distinct sorted n-gram hashes of the stem and of each option, and how long they are."""

    id: str
    """What the report calls it."""
    stem: Hashes
    options: tuple[Hashes, ...]
    whole_options: Hashes
    """(5,) of each complete option."""
    answer: int
    stem_length: int
    """Characters of the skeleton."""
    length: int
    """Of stem and options."""

    @property
    def all_options(self) -> Hashes:
        return np.unique(np.concatenate(self.options))


@dataclass(frozen=True, slots=True)
class QuestionIndex:
    """A set of questions, searched by their n-grams. The hashes of texts pass `salted` first."""

    name: str
    """Of the set, such as `dev`."""
    questions: tuple[QuestionHashes, ...]
    salt: int
    keys: Hashes
    """(K,) sorted hashes of all n-grams."""
    starts: Positions
    """(K + 1,) where each key's questions begin in `owners`."""
    owners: Positions
    """The questions with a key in their stem."""
    prefilter: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """By the first bits of a hash, whether there is a key with them."""
    rare: Positions
    """(Q,) keys of each stem that start a comparison."""

    def salted(self, hashes: Hashes) -> Hashes:
        return mixed(hashes, self.salt) if self.salt else hashes

    def find(self, hashes: Hashes) -> tuple[Positions, Positions]:
        """Where n-grams of the questions are among `hashes` (salted), and which keys they are."""
        if not len(self.keys):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = np.flatnonzero(self.prefilter[(hashes >> np.uint64(64 - _PREFILTER_BITS)).astype(np.int64)])
        number = np.minimum(np.searchsorted(self.keys, hashes[at]), len(self.keys) - 1)
        same = self.keys[number] == hashes[at]
        return at[same], number[same]


def question_hashes(questions: Sequence[ExamQuestion], salt: int = 0) -> list[QuestionHashes]:
    """The questions as hashes, salted where `salt` is not 0."""
    parts = [part for question in questions for part in (question.question, *question.options)]
    texts = skeletons(parts)
    hashed, whole, lengths = grams(texts), whole_hashes(texts), np.diff(texts.starts)

    def distinct(values: Hashes) -> Hashes:
        return np.unique(mixed(values, salt) if salt else values)

    result = []
    for number, question in enumerate(questions):
        first = number * 6
        options = whole[first + 1 : first + 6]
        result.append(
            QuestionHashes(
                id=question_name(question),
                stem=distinct(hashed.of(first)),
                options=tuple(distinct(hashed.of(first + 1 + option)) for option in range(5)),
                whole_options=mixed(options, salt) if salt else options,
                answer=question.answer,
                stem_length=int(lengths[first]),
                length=int(lengths[first : first + 6].sum()),
            )
        )
    return result


def question_name(question: ExamQuestion) -> str:
    """The question's exam, subject and id: ids alone are unique within an exam."""
    return f"{question.exam}/{question.id}" if question.exam else question.id


def build_index(name: str, questions: Sequence[QuestionHashes], salt: int = 0) -> QuestionIndex:
    """An index of questions whose hashes have this salt."""
    pairs = [(question.stem, number) for number, question in enumerate(questions)]
    values = np.concatenate([stem for stem, _ in pairs] or [np.zeros(0, np.uint64)])
    numbers = np.repeat(np.arange(len(pairs)), [len(stem) for stem, _ in pairs])
    options = [question.all_options for question in questions]
    keys = np.unique(np.concatenate([values, *options]))
    order = np.lexsort((numbers, values))
    starts = np.concatenate((np.searchsorted(values[order], keys), [len(values)])).astype(np.int64)
    prefilter = np.zeros(1 << _PREFILTER_BITS, np.bool_)
    prefilter[(keys >> np.uint64(64 - _PREFILTER_BITS)).astype(np.int64)] = True
    counts = np.diff(starts)
    rare_keys = counts[np.searchsorted(keys, values)] <= COMMON if len(values) else np.zeros(0, np.bool_)
    rare = np.bincount(numbers[rare_keys], minlength=len(questions)).astype(np.int64)
    return QuestionIndex(name, tuple(questions), salt, keys, starts, numbers[order], prefilter, rare)


def owners_of(index: QuestionIndex, keys: Positions) -> tuple[Positions, Positions]:
    """For keys that start a comparison: positions in `keys`, each as often as it has owners, and the owners."""
    counts = index.starts[keys + 1] - index.starts[keys]
    counts = np.where(counts <= COMMON, counts, 0)
    where = np.repeat(np.arange(len(keys)), counts)
    first = np.repeat(index.starts[keys], counts)
    within = np.arange(len(where)) - np.repeat(np.cumsum(counts) - counts, counts)
    return where, index.owners[first + within]


def text_number(batch: Grams, positions: Positions) -> Positions:
    """The text that each position of a batch of n-grams belongs to."""
    return np.searchsorted(batch.starts, positions, side="right") - 1
