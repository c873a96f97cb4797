"""`letters`: the option letter with the highest next-token logit after the answer cue."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from lorachain.artifacts.schema import Record
from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.base import (
    LETTERS_VERSION,
    Option,
    QuestionResult,
    Shots,
    shots_text,
    subject_shots,
)
from lorachain.evaluation.scoring import QuestionScore, first_argmax, score_questions
from lorachain.prompts import ANSWER_CUE, Prompt, question_block
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder


class _Detail(Record):
    shown: Annotated[list[Option], Field(min_length=1, max_length=len(LETTERS))]
    """The letter that each order chooses."""


@dataclass(frozen=True, slots=True)
class Letters:
    """With 0 or more worked examples, and one or all five cyclic orders of the options.

    Without worked examples and in one order it is what validation scores. With five orders a question's score is the
    mean, over the orders, of each option's probability among the five letters (the cyclic-permutation baseline of Zheng
    et al. 2023, arXiv 2309.03882). The worked examples are computed once per batch, a question once for its orders.
    """

    shots: int = 0
    orders: int = 1
    examples: Shots = field(default_factory=dict)
    token_budget: int = 8192
    detail_type: type[Record] = _Detail
    name: str = "letters"
    version: str = LETTERS_VERSION

    def __post_init__(self) -> None:
        if self.orders not in (1, len(LETTERS)):
            raise ConfigError(f"rotations is {self.orders}; allowed: 1 (as printed) or 5 (every cyclic order)")
        if self.shots < 0:
            raise ConfigError(f"shots is {self.shots}; allowed: 0 or more")

    @property
    def batch_questions(self) -> int:
        # The worked examples are computed once per batch.
        return 256 if self.shots else 64

    @property
    def settings(self) -> dict[str, Any]:
        return {"shots": self.shots, "rotations": self.orders}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        if not questions:
            return []
        examples = shots_text(subject_shots(self.examples, questions[0].subject, self.shots))
        scores = score_questions(
            model,
            encoder,
            questions,
            token_budget=self.token_budget,
            with_options=False,
            prompt=lambda question: Prompt(examples + question_block(question), ANSWER_CUE),
            all_orders=self.orders > 1,
            share_prefix=self.shots > 0,
        )
        return [_result(question, score) for question, score in zip(questions, scores, strict=True)]

    def report(self, results: Sequence[QuestionResult]) -> dict[str, Any]:
        """How the answers depend on the letters.

        `chosen_letters` and `accuracy_by_gold_letter` count every order, by the letter that an option had in it;
        `agreement` says how often the orders of one question choose the same option.
        """
        shown = [(result, shift, letter) for result in results for shift, letter in enumerate(result.detail["shown"])]
        by_gold: dict[str, dict[str, Any]] = {}
        for index, name in enumerate(LETTERS):
            hits = [letter == index for result, shift, letter in shown if (result.gold - shift) % len(LETTERS) == index]
            by_gold[name] = {
                "n": len(hits), "correct": sum(hits), "accuracy": sum(hits) / len(hits) if hits else None
            }  # fmt: skip
        report: dict[str, Any] = {
            "chosen_letters": {name: sum(letter == i for _, _, letter in shown) for i, name in enumerate(LETTERS)},
            "accuracy_by_gold_letter": by_gold,
        }
        if self.orders > 1:
            # The option that each order chooses, by its index in the question as printed.
            chosen = [
                [(letter + shift) % len(LETTERS) for shift, letter in enumerate(result.detail["shown"])]
                for result in results
            ]
            most = [max(options.count(i) for i in range(len(LETTERS))) for options in chosen]
            report["agreement"] = {
                "n": len(results),
                "all_orders_agree": sum(count == self.orders for count in most),
                "mean_share_of_most_named": sum(most) / (self.orders * len(most)),
            }
        return report


def _result(question: ExamQuestion, score: QuestionScore) -> QuestionResult:
    """`detail` holds the letter that each order chooses."""
    return QuestionResult(
        id=question.id,
        exam=question.exam,
        subject=question.subject,
        gold=question.answer,
        chosen=score.chosen_letter,
        logprobs=score.letter_logprobs,
        prompt_tokens=score.prompt_tokens,
        detail={"shown": [first_argmax(of_letters) for of_letters in score.logprobs_by_order]},
    )
