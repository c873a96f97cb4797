"""What a stage measures besides the exam: the names under which its results are written. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MeasureKind:
    """The fields that all results of one measure share (`artifacts.Measure`)."""

    name: str
    split: str
    """What it is measured on."""
    unit: Literal["tokens", "answers", "questions"]


PERPLEXITY = MeasureKind("perplexity", "held-out documents", "tokens")
EXACT_MATCH = MeasureKind("exact match", "trained entries", "answers")
EXACT_MATCH_NEW_FORMS = MeasureKind("exact match, new forms", "trained entries", "answers")
DIRECT = MeasureKind("direct accuracy", "exam dev", "questions")
EXPLAINED = MeasureKind("explained accuracy", "exam dev", "questions")
TOUCHED = MeasureKind("accuracy, questions in the training data", "exam dev", "questions")
CLEAN = MeasureKind("accuracy, questions not in the training data", "exam dev", "questions")
MEASURES = (PERPLEXITY, EXACT_MATCH, EXACT_MATCH_NEW_FORMS, DIRECT, EXPLAINED, TOUCHED, CLEAN)
