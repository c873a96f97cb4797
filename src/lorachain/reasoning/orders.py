"""Orders of the options in which samples are drawn and questions asked again."""

import hashlib
import random

from lorachain.prompts import permuted
from lorachain.records import LETTERS, ExamQuestion

Order = tuple[int, ...]
"""`options[i]` as shown is option `order[i]` of the question."""


def sample_order(question: ExamQuestion, number: int, seed: int) -> Order:
    """The order of the options for sample `number`: the right option takes each of the five letters in turn, from a
    random one on, and the others are shuffled."""
    first = random.Random(f"letter:{seed}:{question.id}").randrange(len(LETTERS))
    rng = random.Random(f"sample:{seed}:{question.id}:{number}")
    return _order(question, (first + number) % len(LETTERS), rng)


def sample_seed(question: ExamQuestion, number: int, seed: int, *, hinted: bool) -> int:
    """The seed of a sample: its draw depends on nothing else."""
    name = f"{seed}:{question.id}:{number}:{'hinted' if hinted else 'drawn'}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def check_order(question: ExamQuestion, letter: int, seed: int) -> Order:
    """The order in which the question is asked again with the right option at `letter`."""
    return _order(question, letter, random.Random(f"check:{seed}:{question.id}:{letter}"))


def check_letters(sample_letter: int, count: int) -> list[int]:
    """The letters of the right option in the `count` further orders (at most 4) for a sample that had it at
    `sample_letter`: no letter repeats, so that a model that always names the same letter fails."""
    return [(sample_letter + step) % len(LETTERS) for step in range(1, count + 1)]


def in_order(question: ExamQuestion, order: Order) -> ExamQuestion:
    """The question with its options in `order`."""
    return permuted(question, list(order))


def inverse(order: Order) -> Order:
    """The order that undoes `order`."""
    return tuple(order.index(i) for i in range(len(order)))


def _order(question: ExamQuestion, letter: int, rng: random.Random) -> Order:
    others = [i for i in range(len(LETTERS)) if i != question.answer]
    rng.shuffle(others)
    return (*others[:letter], question.answer, *others[letter:])
