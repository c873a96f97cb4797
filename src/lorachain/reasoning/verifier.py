"""Checks a written sample: first its text, then by asking the question again in further orders of its options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorachain.data.gates.held_out import TextScreen
from lorachain.evaluation.answer_line import choice_reader
from lorachain.evaluation.reasoning_text import hangul_share
from lorachain.prompts import AnswerStyle
from lorachain.reasoning import text_checks
from lorachain.reasoning.orders import Order, check_letters, check_order, in_order
from lorachain.reasoning.requests import split_sample
from lorachain.reasoning.sample import Check, Sample, Written
from lorachain.reasoning.term_check import TermCheck
from lorachain.reasoning.writer import Writer
from lorachain.records import ExamQuestion


class OptionScorer(Protocol):
    """How likely the five options are after a text."""

    def __call__(self, questions: Sequence[ExamQuestion], reasoning: Sequence[str | None]) -> list[tuple[float, ...]]:
        """Per question, the log-probability of each option among the five (log-softmax), after its reasoning, or right
        after the question where that is None."""
        ...


@dataclass(frozen=True, slots=True)
class Verifier:
    """The checks of samples, with what they need. Answers in further orders are cached: samples share them."""

    writer: Writer
    """It answers again."""
    style: AnswerStyle
    """How it answers."""
    score_options: OptionScorer
    screen: TextScreen
    terms: TermCheck
    min_hangul: float
    """Share of the letters of a sample."""
    orders: int
    """Further orders in which a question is asked again."""

    def check(self, questions: Mapping[str, ExamQuestion], written: Sequence[Written]) -> list[Sample]:
        """The samples with every check that each fails, apart from those that compare samples (`selection`).

        Checks that ask a model are made for samples with the right answer only.

        Args:
            questions: by `question_key`, those that were written for.
        """
        samples = [self._check_text(questions[one.question], one) for one in written]
        right = [sample for sample in samples if not {"parsed", "right"} & set(sample.failed)]
        self._check_shuffles(questions, right)
        self._check_support(questions, right)
        return samples

    def _check_text(self, question: ExamQuestion, written: Written) -> Sample:
        shown = in_order(question, written.order)
        sample = split_sample(written, shown, self.style)
        text = sample.reasoning
        if sample.chosen is None:
            sample.failed.append("parsed")
        elif sample.chosen != shown.answer:
            sample.failed.append("right")
        passes: dict[Check, bool] = {
            "answer_line": text_checks.one_answer_line_last(written.text),
            "consistent": sample.chosen is None or text_checks.is_consistent(text, shown, sample.chosen),
            "finished": written.finish == "stop",
            "length": text_checks.is_long_enough(text),
            "repetition": not text_checks.is_repetitive(text),
            "language": self._is_korean(text, question),
            "copied": not text_checks.miscopies_a_term(text, self._known_text(text, question)),
            "leak": not text_checks.mentions_leak(text),
            "held_out": not self.screen.contains(text),
            "dictionary": self.terms.agrees(text),
            "grounded": self.terms.speaks_of(question.question, text),
        }
        sample.failed += [check for check, passed in passes.items() if not passed]
        return sample

    def _is_korean(self, text: str, question: ExamQuestion) -> bool:
        return hangul_share(text, self._known_text(text, question)) >= self.min_hangul

    def _known_text(self, text: str, question: ExamQuestion) -> list[str]:
        """The question with its options, and the dictionary's terms that the text names."""
        return [question.question, *question.options, *self.terms.names_in(text)]

    def _further_orders(self, question: ExamQuestion, sample: Sample) -> list[Order]:
        letter = sample.written.order.index(question.answer)
        return [check_order(question, other, self.writer.settings.seed) for other in check_letters(letter, self.orders)]

    def _check_shuffles(self, questions: Mapping[str, ExamQuestion], samples: Sequence[Sample]) -> None:
        asked: dict[tuple[str, Order], int | None] = {}
        for sample in samples:
            for order in self._further_orders(questions[sample.written.question], sample):
                asked[sample.written.question, order] = None
        keys = list(asked)
        shown = [in_order(questions[name], order) for name, order in keys]
        read = choice_reader(self.style)
        for (name, order), question, completion in zip(keys, shown, self.writer.answer(shown), strict=True):
            choice = read(completion.text, question.options)
            asked[name, order] = None if choice is None else order[choice]
        for sample in samples:
            question = questions[sample.written.question]
            orders = self._further_orders(question, sample)
            sample.shuffled_choices = tuple(asked[sample.written.question, order] for order in orders)
            if any(choice != question.answer for choice in sample.shuffled_choices):
                sample.failed.append("shuffle")

    def _check_support(self, questions: Mapping[str, ExamQuestion], samples: Sequence[Sample]) -> None:
        shown: list[ExamQuestion] = []
        texts: list[str | None] = []
        position: dict[tuple[str, Order], int] = {}
        for sample in samples:
            question = questions[sample.written.question]
            for order in self._further_orders(question, sample):
                if (sample.written.question, order) not in position:
                    position[sample.written.question, order] = len(shown)
                    shown.append(in_order(question, order))
                    texts.append(None)
        starts = []
        for sample in samples:
            question = questions[sample.written.question]
            starts.append(len(shown))
            content = text_checks.without_letters(sample.reasoning, in_order(question, sample.written.order))
            for order in self._further_orders(question, sample):
                shown.append(in_order(question, order))
                texts.append(content)
        scores = self.score_options(shown, texts)
        for sample, start in zip(samples, starts, strict=True):
            question = questions[sample.written.question]
            orders = self._further_orders(question, sample)
            given = [scores[start + i] for i in range(len(orders))]
            answers = [order.index(question.answer) for order in orders]
            alone = [scores[position[sample.written.question, order]] for order in orders]
            likely = all(max(values) == values[answer] for values, answer in zip(given, answers, strict=True))
            right = [values[answer] for values, answer in zip(given, answers, strict=True)]
            before = [values[answer] for values, answer in zip(alone, answers, strict=True)]
            sample.support = min(right, default=0.0)
            sample.support_gain = min((after - first for after, first in zip(right, before, strict=True)), default=0.0)
            if not (likely and sample.support_gain > 0):
                sample.failed.append("support")
