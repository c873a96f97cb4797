"""One written sample and what the checks found."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from lorachain.inference.engines.base import FinishReason
from lorachain.records import ExamQuestion

Check = Literal[
    "parsed",
    "right",
    "answer_line",
    "consistent",
    "finished",
    "length",
    "repetition",
    "language",
    "copied",
    "leak",
    "held_out",
    "dictionary",
    "grounded",
    "shuffle",
    "support",
    "duplicate",
    "surplus",
]
CHECKS: tuple[Check, ...] = get_args(Check)
"""In the order of the funnel: a sample is rejected by the first that it fails."""
DESCRIPTIONS: dict[Check, str] = {
    "parsed": "an answer could be read",
    "right": "the answer is right",
    "answer_line": "one answer line, at the end",
    "consistent": "the last option named in the reasoning is the one answered",
    "finished": "ended by itself",
    "length": "length within bounds",
    "repetition": "no looping",
    "language": "written in Korean, apart from terms of the question or dictionary",
    "copied": "foreign terms are those of the question or the dictionary, letter by letter",
    "leak": "no mention of a hint or a given answer",
    "held_out": "no dev, few-shot or test question in it",
    "dictionary": "pairs of terms agree with the dictionary",
    "grounded": "speaks of a term of the question, where the dictionary knows one",
    "shuffle": "asked again in further orders of the options, the answer is right each time",
    "support": "the reasoning without its answer makes the right option the most likely one",
    "duplicate": "no near-duplicate of a better sample of the question",
    "surplus": "among the samples kept of the question",
}


def question_key(question: ExamQuestion) -> str:
    """A name for a question that is unique over several exams."""
    return f"{question.exam}/{question.id}"


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer drew for a question, in an order of its options."""

    question: str
    """Its `question_key`."""
    number: int
    """Of the sample, from 0: decides its seed and its order."""
    order: tuple[int, ...]
    """`options[i]` as shown is option `order[i]` of the question."""
    hinted: bool
    """Whether the right answer was given as a hint."""
    text: str
    tokens: int
    finish: FinishReason


@dataclass(slots=True)
class Sample:
    """A written sample, split and checked."""

    written: Written
    reasoning: str
    """The text before the answer line."""
    chosen: int | None
    """Index of the option as shown that the answer names."""
    failed: list[Check] = field(default_factory=list)
    shuffled_choices: tuple[int | None, ...] = ()
    """What was answered in the further orders, as indices of the question's options."""
    support: float | None = None
    """Smallest log-probability of the right option over the further orders, given the reasoning."""
    support_gain: float | None = None
    """Smallest gain of that log-probability, in nats, over asking without the reasoning."""

    @property
    def rejected_by(self) -> Check | None:
        """The first check that it failed, in the order of CHECKS; None for a kept sample."""
        return next((check for check in CHECKS if check in self.failed), None)
