"""The exam score of an epoch: `letters` and `options` on one split, from one forward pass per question."""

import time
from collections.abc import Callable, Sequence

from torch import nn

from lorachain.artifacts import ValidationResult
from lorachain.evaluation.questions import check_questions
from lorachain.evaluation.scoring import score_questions
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder


def validate(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    *,
    split: str = "dev",
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> ValidationResult:
    """Scores every question by `letters` and `options`.

    Raises:
        DataError: no questions, an id twice within an exam, or an option without text.
        ModelError: the tokenizer does not tell the five letters apart, or a score is not finite.
    """
    check_questions(questions)
    started = time.monotonic()
    scores = score_questions(model, encoder, questions, token_budget=token_budget, on_progress=on_progress)
    chosen = {
        "letters": "".join(LETTERS[score.chosen_letter] for score in scores),
        "options": "".join(LETTERS[score.chosen_option] for score in scores),
    }
    return summarize_validation(questions, chosen, split, time.monotonic() - started)
