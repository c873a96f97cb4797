"""`options` and `cloze`: which option's text is most likely after the question, with the options shown and without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.evaluation.protocols.base import Row
from lorachain.evaluation.scoring import QuestionScore, first_argmax, score_questions
from lorachain.evaluation.statistics import proportion
from lorachain.prompts import ANSWER_CUE, Prompt
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder


def _sums(score: QuestionScore) -> list[float]:
    if score.option_logprobs is None:
        raise ValueError(f"question {score.id} was scored without options")
    return list(score.option_logprobs)


def _per_character(score: QuestionScore) -> list[float]:
    return [total / chars for total, chars in zip(_sums(score), score.option_chars, strict=True)]


def _row(question: ExamQuestion, score: QuestionScore, readings: dict[str, list[float]]) -> Row:
    """The sum decides; every other reading's choice stands in `detail`."""
    return Row(
        id=question.id,
        exam=question.exam,
        subject=question.subject,
        gold=question.answer,
        chosen=first_argmax(readings["sum"]),
        logprobs=tuple(readings["sum"]),
        prompt_tokens=score.prompt_tokens,
        detail={name: first_argmax(values) for name, values in readings.items()},
    )


def _readings(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy by every reading of the same likelihoods."""
    names = list(rows[0].detail) if rows else []
    return {
        "readings": {name: proportion(sum(row.detail[name] == row.gold for row in rows), len(rows)) for name in names}
    }


@dataclass(frozen=True, slots=True)
class Options:
    """Log-likelihood of each option's text after the question with its options shown, summed over its tokens."""

    token_budget: int = 8192
    name: str = "options"
    version: str = "1"
    batch_questions: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[Row]:
        scores = score_questions(model, encoder, questions, token_budget=self.token_budget)
        return [
            _row(question, score, {"sum": _sums(score), "per_character": _per_character(score)})
            for question, score in zip(questions, scores, strict=True)
        ]

    def report(self, rows: Sequence[Row]) -> dict[str, Any]:
        return _readings(rows)


def _cloze_prompt(question: ExamQuestion) -> Prompt:
    return Prompt(question.question.strip(), ANSWER_CUE)


def _bare_prompt(question: ExamQuestion) -> Prompt:
    return Prompt("", ANSWER_CUE)


@dataclass(frozen=True, slots=True)
class Cloze:
    """The same without showing the options: by sum, per character, and PMI.

    PMI = log p(option | question) - log p(option | answer cue alone): Holtzman et al. 2021, arXiv 2104.08315.
    """

    token_budget: int = 8192
    name: str = "cloze"
    version: str = "1"
    batch_questions: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[Row]:
        given = score_questions(model, encoder, questions, token_budget=self.token_budget, prompt=_cloze_prompt)
        alone = score_questions(model, encoder, questions, token_budget=self.token_budget, prompt=_bare_prompt)
        rows = []
        for question, score, bare in zip(questions, given, alone, strict=True):
            pmi = [a - b for a, b in zip(_sums(score), _sums(bare), strict=True)]
            readings = {"sum": _sums(score), "per_character": _per_character(score), "pmi": pmi}
            rows.append(_row(question, score, readings))
        return rows

    def report(self, rows: Sequence[Row]) -> dict[str, Any]:
        return _readings(rows)
