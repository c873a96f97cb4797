"""Whether a model reproduces its dictionary: greedy answers to entries, in a form that stage 01 trains or in none."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.dictionary_forms import held_out_example
from lorachain.errors import DataError
from lorachain.evaluation.measures import EXACT_MATCH, EXACT_MATCH_NEW_FORMS
from lorachain.evaluation.statistics import wilson
from lorachain.inference.generate import generate_lines
from lorachain.prompts import Direction, dictionary_example, directions
from lorachain.provenance import sha256_json
from lorachain.records import Term
from lorachain.tokens import TokenEncoder

VERSION = "1"
SHORT_ANSWERS: tuple[Direction, ...] = ("definition->term", "english->term", "term->english")
"""Directions whose answer is a name, where exact match is meaningful. A definition has many correct wordings."""
_SPARE_TOKENS = 4


def normalize(text: str) -> str:
    """NFKC, case-folded, whitespace collapsed: the form that exact match compares."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def character_f1(answer: str, expected: str) -> float:
    """F1 of the two normalized texts as multisets of characters, without spaces.

    SQuAD's F1 (Rajpurkar et al. 2016, arXiv 1606.05250) over characters instead of words: Korean attaches particles to
    words and varies its spaces. 1.0 where both are empty.
    """
    a = Counter(normalize(answer).replace(" ", ""))
    b = Counter(normalize(expected).replace(" ", ""))
    if not a and not b:
        return 1.0
    shared = sum((a & b).values())
    return 2 * shared / (sum(a.values()) + sum(b.values()))


@dataclass(frozen=True, slots=True)
class DirectionScore:
    """One direction: n entries, how many answers match exactly, and the mean character F1."""

    n: int
    exact: int
    character_f1: float
    correct: str
    """`1` or `0` per answer, in the order of the entries."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "exact": self.exact,
            "exact_match": self.exact / self.n,
            "wilson95": list(wilson(self.exact, self.n)),
            "character_f1": self.character_f1,
            "correct": self.correct,
        }


@dataclass(frozen=True, slots=True)
class ExactMatchResult:
    """Scores per direction; the headline is exact match over the directions whose answers are names."""

    split: str
    by_direction: dict[Direction, DirectionScore]
    held_out_forms: bool
    entries_sha256: str

    @property
    def n(self) -> int:
        """Number of questions whose answer is a name."""
        return sum(self.by_direction[d].n for d in SHORT_ANSWERS if d in self.by_direction)

    @property
    def exact(self) -> int:
        """Number of these answered exactly."""
        return sum(self.by_direction[d].exact for d in SHORT_ANSWERS if d in self.by_direction)

    @property
    def character_f1(self) -> float:
        """Mean over every answer of every direction."""
        total = sum(part.n for part in self.by_direction.values())
        return sum(part.character_f1 * part.n for part in self.by_direction.values()) / total

    def as_measure(self) -> dict[str, Any]:
        """The fields of an `artifacts.Measure`: no value where no name was asked for (a dictionary of definitions)."""
        return {
            "name": (EXACT_MATCH_NEW_FORMS if self.held_out_forms else EXACT_MATCH).name,
            "protocol_version": VERSION,
            "split": self.split,
            "value": self.exact / self.n if self.n else None,
            "n": self.n,
            "unit": EXACT_MATCH.unit,
            "wilson95": wilson(self.exact, self.n) if self.n else None,
            "detail": {
                "exact": self.exact,
                "character_f1": self.character_f1,
                "entries_sha256": self.entries_sha256,
                "by_direction": {name: part.as_dict() for name, part in self.by_direction.items()},
            },
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    prompt: list[int]
    expected: str


def exact_match(
    model: nn.Module,
    encoder: TokenEncoder,
    entries: Sequence[Term],
    *,
    split: str,
    ask: Sequence[Direction] | None = None,
    held_out_forms: bool = False,
    max_new_tokens: int = 64,
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> ExactMatchResult:
    """Greedy answers to every entry in each of its directions (or only those of `ask`).

    `split` describes the entries ("trained entries", "held out"). An answer ends at its end token or newline, and at
    most a few tokens after the longest expected answer of its direction, never beyond `max_new_tokens`. With
    `held_out_forms`, the prompts have wordings that nothing is trained on, which take turns over the entries.

    Raises:
        DataError: no entry has a direction to ask.
    """
    asked: dict[Direction, list[_Asked]] = {}
    for number, entry in enumerate(entries):
        for direction in directions(entry):
            if ask is None or direction in ask:
                example = dictionary_example(entry, direction)
                if held_out_forms:
                    example = held_out_example(entry, direction, number)
                if example.prompt is not None:
                    question = _Asked(encoder.prompt_ids(example.prompt), example.completion)
                    asked.setdefault(direction, []).append(question)
    if not asked:
        raise DataError(
            f"no entry can be asked: {len(entries)} entries, directions {list(ask) if ask else 'all'}; "
            "an entry needs a definition or an English name"
        )
    by_direction: dict[Direction, DirectionScore] = {}
    done = 0
    for direction, questions in sorted(asked.items()):
        longest = max(len(encoder.text_ids(question.expected)) for question in questions)

        def report(count: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + count)

        answers = generate_lines(
            model,
            encoder,
            [question.prompt for question in questions],
            max_new_tokens=min(max_new_tokens, longest + _SPARE_TOKENS),
            token_budget=token_budget,
            on_progress=report,
        )
        by_direction[direction] = _scored(answers, [question.expected for question in questions])
        done += len(questions)
    return ExactMatchResult(split, by_direction, held_out_forms, entries_sha256(entries))


def entries_sha256(entries: Sequence[Term]) -> str:
    """The identity of the entries: two scores compare only where it is the same."""
    return sha256_json([[entry.term, entry.definition, entry.english] for entry in entries])


def _scored(answers: Sequence[str], expected: Sequence[str]) -> DirectionScore:
    pairs = list(zip(answers, expected, strict=True))
    correct = [normalize(answer) == normalize(wanted) for answer, wanted in pairs]
    return DirectionScore(
        n=len(pairs),
        exact=sum(correct),
        character_f1=sum(character_f1(answer, wanted) for answer, wanted in pairs) / len(pairs),
        correct="".join("01"[hit] for hit in correct),
    )
