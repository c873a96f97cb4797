"""How likely each option is for a local model, with and without reasoning before the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

from torch import nn

from lorachain.evaluation.scoring import QuestionScore, score_questions
from lorachain.prompts import ANSWER_CUE, REASONING_CUE, AnswerStyle, Prompt, question_block
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder


@dataclass(frozen=True, slots=True)
class ModelScorer:
    """Scores options in the way that the model is trained to answer: by their letters or by their texts."""

    model: nn.Module
    encoder: TokenEncoder
    style: AnswerStyle
    examples: Callable[[ExamQuestion], str]
    """Worked examples before a question, those that its writer reads."""
    token_budget: int

    def __call__(self, questions: Sequence[ExamQuestion], reasoning: Sequence[str | None]) -> list[tuple[float, ...]]:
        """Per question, the log-softmax over its five options: after `reasoning`, or right after the question for None.

        Raises:
            NonFiniteError: logits are NaN or infinite.
        """
        if not questions:
            return []
        cues = {
            id(question): ANSWER_CUE if text is None else f"{REASONING_CUE} {text}\n{ANSWER_CUE}"
            for question, text in zip(questions, reasoning, strict=True)
        }
        scores = score_questions(
            self.model,
            self.encoder,
            questions,
            token_budget=self.token_budget,
            with_options=self.style == "options",
            prompt=lambda question: Prompt(self.examples(question) + question_block(question), cues[id(question)]),
            share_prefix=True,
        )
        return [self._over_options(score) for score in scores]

    def _over_options(self, score: QuestionScore) -> tuple[float, ...]:
        if self.style == "letters" or score.option_logprobs is None:
            return score.letter_logprobs
        largest = max(score.option_logprobs)
        total = largest + log(sum(exp(value - largest) for value in score.option_logprobs))
        return tuple(value - total for value in score.option_logprobs)
