"""`options` and `cloze`: which option's text is most likely after the question, with the options shown and without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.artifacts.schema import Record
from lorachain.evaluation.protocols.base import OPTIONS_VERSION, Option, QuestionResult
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


def _result(question: ExamQuestion, score: QuestionScore, readings: dict[str, list[float]]) -> QuestionResult:
    """The sum decides; the choice of each reading is in `detail`."""
    return QuestionResult(
        id=question.id,
        exam=question.exam,
        subject=question.subject,
        gold=question.answer,
        chosen=first_argmax(readings["sum"]),
        logprobs=tuple(readings["sum"]),
        prompt_tokens=score.prompt_tokens,
        detail={name: first_argmax(values) for name, values in readings.items()},
    )


def _readings(results: Sequence[QuestionResult]) -> dict[str, Any]:
    """Accuracy by each reading of the same likelihoods."""
    names = list(results[0].detail) if results else []
    n = len(results)
    return {
        "readings": {
            name: proportion(sum(result.detail[name] == result.gold for result in results), n) for name in names
        }
    }


class _Readings(Record):
    """The option that each reading of the likelihoods chooses."""

    sum: Option
    per_character: Option


class _ClozeReadings(_Readings):
    pmi: Option


@dataclass(frozen=True, slots=True)
class Options:
    """Log-likelihood of each option's text after the question with its options shown, summed over its tokens.

    It is what validation scores.
    """

    token_budget: int = 8192
    detail_type: type[Record] = _Readings
    name: str = "options"
    version: str = OPTIONS_VERSION
    batch_questions: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        scores = score_questions(model, encoder, questions, token_budget=self.token_budget)
        return [
            _result(question, score, {"sum": _sums(score), "per_character": _per_character(score)})
            for question, score in zip(questions, scores, strict=True)
        ]

    def report(self, results: Sequence[QuestionResult]) -> dict[str, Any]:
        return _readings(results)


def _cloze_prompt(question: ExamQuestion) -> Prompt:
    return Prompt(question.question.strip(), ANSWER_CUE)


def _bare_prompt(question: ExamQuestion) -> Prompt:
    return Prompt("", ANSWER_CUE)


@dataclass(frozen=True, slots=True)
class Cloze:
    """Log-likelihood of each option's text after the question alone: by sum, per character, and PMI.

    PMI = log p(option | question) - log p(option | answer cue alone): Holtzman et al. 2021, arXiv 2104.08315.
    """

    token_budget: int = 8192
    detail_type: type[Record] = _ClozeReadings
    name: str = "cloze"
    version: str = "1"
    batch_questions: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        after_question = score_questions(
            model, encoder, questions, token_budget=self.token_budget, prompt=_cloze_prompt
        )
        after_cue = score_questions(model, encoder, questions, token_budget=self.token_budget, prompt=_bare_prompt)
        results = []
        for question, score, bare in zip(questions, after_question, after_cue, strict=True):
            pmi = [a - b for a, b in zip(_sums(score), _sums(bare), strict=True)]
            readings = {"sum": _sums(score), "per_character": _per_character(score), "pmi": pmi}
            results.append(_result(question, score, readings))
        return results

    def report(self, results: Sequence[QuestionResult]) -> dict[str, Any]:
        return _readings(results)
