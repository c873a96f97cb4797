"""What asking for reasoning costs or gains: the same questions answered directly and after an explanation.

Asking for an explanation can lower accuracy by up to 11.5 % (arXiv 2504.18080), so the two are always reported side by
side, with the paired test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.evaluation.answer_line import answer_line_complete, choice_reader
from lorachain.evaluation.measures import DIRECT, EXPLAINED, MeasureKind
from lorachain.evaluation.reasoning_text import hangul_share, names_another, reasoning_of
from lorachain.evaluation.scoring import score_questions
from lorachain.evaluation.statistics import (
    comparison_summary,
    discordant,
    mcnemar_exact,
    paired_bootstrap,
    proportion,
    wilson,
)
from lorachain.inference.generate import Generation, generate
from lorachain.prompts import AnswerStyle, reasoning_prompt
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

VERSION = "2"
_EXAMPLES = 8
"""Explanations that are kept as text, for people."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One question answered both ways."""

    question: tuple[str, str]
    """Its exam and id."""
    direct: int
    """Index of the option chosen directly."""
    explained: int | None
    """Index of the option that the answer after the reasoning names; None if none could be read."""
    gold: int
    generation: Generation
    hangul_share: float
    contradicts: bool
    """The reasoning names another option last than the one answered."""


def explain(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    *,
    style: AnswerStyle,
    max_new_tokens: int,
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[Explanation]:
    """Every question answered directly, as `style` trains it, and greedily after its reasoning.

    Raises:
        NonFiniteError: logits are NaN or infinite.
    """
    direct = direct_choices(model, encoder, questions, style, token_budget=token_budget)
    generations = generate(
        model,
        encoder,
        [encoder.prompt_ids(reasoning_prompt(question)) for question in questions],
        stop=answer_line_complete,
        max_new_tokens=max_new_tokens,
        token_budget=token_budget,
        on_progress=on_progress,
    )
    return [
        _explanation(question, chosen, generation, style)
        for question, chosen, generation in zip(questions, direct, generations, strict=True)
    ]


def direct_choices(
    model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion], style: AnswerStyle, *, token_budget: int
) -> list[int]:
    """The option that the model chooses at once, by what `style` trains: the letter, or the option's text.

    Raises:
        NonFiniteError: logits are NaN or infinite.
    """
    with_options = style == "options"
    scores = score_questions(model, encoder, questions, token_budget=token_budget, with_options=with_options)
    return [score.chosen_option if with_options else score.chosen_letter for score in scores]


def _explanation(question: ExamQuestion, direct: int, generation: Generation, style: AnswerStyle) -> Explanation:
    chosen = choice_reader(style)(generation.text, question.options)
    reasoning = reasoning_of(generation.text)
    return Explanation(
        question=(question.exam, question.id),
        direct=direct,
        explained=chosen,
        gold=question.answer,
        generation=generation,
        hangul_share=hangul_share(reasoning, [question.question, *question.options]),
        contradicts=chosen is not None and names_another(reasoning, question, chosen),
    )


def explained_measures(explanations: Sequence[Explanation]) -> dict[str, dict[str, Any]]:
    """The fields of two `artifacts.Measure`, direct and explained accuracy on the same questions."""
    direct = [one.direct == one.gold for one in explanations]
    explained = [one.explained == one.gold for one in explanations]
    return {
        "direct": _accuracy(DIRECT, direct, {}),
        "explained": _accuracy(EXPLAINED, explained, _detail(explanations, direct, explained)),
    }


def explained_correct(detail: Mapping[str, Any]) -> list[bool]:
    """Question by question, from the detail of an explained measure."""
    return [a == b for a, b in zip(detail["gold"], detail["explained_answers"], strict=True)]


def _accuracy(kind: MeasureKind, correct: Sequence[bool], detail: dict[str, Any]) -> dict[str, Any]:
    n = len(correct)
    return {
        "name": kind.name,
        "protocol_version": VERSION,
        "split": kind.split,
        "value": sum(correct) / n,
        "n": n,
        "unit": kind.unit,
        "wilson95": wilson(sum(correct), n),
        "detail": detail,
    }


def tax_of_explaining(direct: Sequence[bool], explained: Sequence[bool]) -> dict[str, Any]:
    """The paired test of explained against direct answers to the same questions, at least one. The difference is
    explained minus direct: below zero it is the tax of explaining."""
    n = len(direct)
    lost, gained = discordant(direct, explained)
    return {
        "n": n,
        "direct": proportion(sum(direct), n),
        "explained": proportion(sum(explained), n),
        "difference": (sum(explained) - sum(direct)) / n,
        "bootstrap95": list(paired_bootstrap(direct, explained)) if n > 1 else None,
        "gained": gained,
        "lost": lost,
        "mcnemar_p": mcnemar_exact(lost, gained),
        "summary": comparison_summary(lost, gained, "answering directly"),
    }


def _detail(explanations: Sequence[Explanation], direct: Sequence[bool], explained: Sequence[bool]) -> dict[str, Any]:
    """The paired test of explained against direct answers, and what the explanations are like."""
    n = len(explanations)
    return {
        **tax_of_explaining(direct, explained),
        "not_parsed": sum(one.explained is None for one in explanations),
        "cut_at_limit": sum(not one.generation.ended for one in explanations),
        "contradictions": sum(one.contradicts for one in explanations),
        "mean_hangul_share": sum(one.hangul_share for one in explanations) / n,
        "mean_tokens": sum(one.generation.tokens for one in explanations) / n,
        "gold": "".join(LETTERS[one.gold] for one in explanations),
        "examples": [
            {
                "exam": one.question[0],
                "id": one.question[1],
                "correct": one.explained == one.gold,
                "text": one.generation.text.strip(),
            }
            for one in explanations[:_EXAMPLES]
        ],
        "explained_answers": "".join("-" if one.explained is None else LETTERS[one.explained] for one in explanations),
    }
