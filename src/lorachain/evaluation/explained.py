"""What asking for reasoning costs or gains: the same questions answered directly and after an explanation.

Asking for an explanation can lower accuracy by up to 11.5 % (arXiv 2504.18080), so the two are always reported side by
side, with the paired test.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.evaluation.answer_line import answer_line_complete, answer_lines, reasoned_choice
from lorachain.evaluation.measures import DIRECT, EXPLAINED
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
from lorachain.letter_uses import Kind, letter_uses
from lorachain.prompts import AnswerStyle, reasoning_prompt
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

VERSION = "1"
_HANGUL = re.compile(r"[가-힣ᄀ-ᇿㄱ-ㆎ]")
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'-]*")


def hangul_share(text: str, allowed_terms: Iterable[str] = ()) -> float:
    """Share of Hangul among the letters of `text`, words of the allowed terms left out; 1.0 where nothing remains."""
    allowed = {word.casefold() for term in allowed_terms for word in _LATIN_WORD.findall(term)}
    hangul = len(_HANGUL.findall(text))
    latin: list[str] = _LATIN_WORD.findall(text)
    foreign = sum(len(word) for word in latin if word.casefold() not in allowed)
    other = sum(map(str.isalpha, text)) - hangul - sum(map(len, latin))
    letters = hangul + foreign + max(other, 0)
    return hangul / letters if letters else 1.0


def last_named(reasoning: str, shown: ExamQuestion) -> int | None:
    """Index of the option that `reasoning` names last, by its text or by a letter that certainly refers to it; None if
    it names none. Of options whose names end at the same place (one contains the other) the longer is named."""
    named = [  # where the name ends, its length, the option
        (use.index + 1, 1, LETTERS.index(use.letter))
        for use in letter_uses(reasoning, shown.options, shown.question)
        if use.kind is Kind.REFERENCE and use.letter in LETTERS
    ]
    for number, option in enumerate(shown.options):
        text = option.strip()
        if text and (start := reasoning.rfind(text)) >= 0:
            named.append((start + len(text), len(text), number))
    return max(named)[2] if named else None


def reasoning_of(text: str) -> str:
    """What comes before the answer line."""
    lines = answer_lines(text)
    return (text[: lines[0].start] if lines else text).strip()


@dataclass(frozen=True, slots=True)
class Explanation:
    """One question answered both ways."""

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
    scores = score_questions(model, encoder, questions, token_budget=token_budget, with_options=style == "options")
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
        explanation(question, score.chosen_option if style == "options" else score.chosen_letter, generation)
        for question, score, generation in zip(questions, scores, generations, strict=True)
    ]


def explanation(question: ExamQuestion, direct: int, generation: Generation) -> Explanation:
    """One question's two answers, from what was generated."""
    chosen = reasoned_choice(generation.text, question.options)
    reasoning = reasoning_of(generation.text)
    named = last_named(reasoning, question)
    return Explanation(
        direct=direct,
        explained=chosen,
        gold=question.answer,
        generation=generation,
        hangul_share=hangul_share(reasoning, [question.question, *question.options]),
        contradicts=chosen is not None and named is not None and named != chosen,
    )


def explanation_report(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """Direct against explained accuracy on the same questions, with the paired test, and what the explanations are
    like. The difference is explained minus direct: below zero it is the tax of explaining."""
    n = len(explanations)
    direct = [one.direct == one.gold for one in explanations]
    explained = [one.explained == one.gold for one in explanations]
    return {
        **paired_report(direct, explained),
        "not_parsed": sum(one.explained is None for one in explanations),
        "cut_at_limit": sum(not one.generation.ended for one in explanations),
        "contradictions": sum(one.contradicts for one in explanations),
        "mean_hangul_share": sum(one.hangul_share for one in explanations) / n,
        "mean_tokens": sum(one.generation.tokens for one in explanations) / n,
        "gold": "".join(LETTERS[one.gold] for one in explanations),
        "explained_answers": "".join("-" if one.explained is None else LETTERS[one.explained] for one in explanations),
    }


def explained_correct(detail: Mapping[str, Any]) -> list[bool]:
    """Question by question, from the detail of an explained measure."""
    return [a == b for a, b in zip(detail["gold"], detail["explained_answers"], strict=True)]


def paired_report(direct: Sequence[bool], explained: Sequence[bool]) -> dict[str, Any]:
    """Direct against explained accuracy on the same questions. The difference is explained minus direct."""
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


def explained_measure(explanations: Sequence[Explanation], *, split: str) -> dict[str, Any]:
    """The fields of an `artifacts.Measure`: explained accuracy, with the direct one in its detail."""
    n = len(explanations)
    correct = sum(one.explained == one.gold for one in explanations)
    return {
        "name": EXPLAINED.name,
        "protocol_version": VERSION,
        "split": split,
        "value": correct / n,
        "n": n,
        "unit": "questions",
        "wilson95": wilson(correct, n),
        "detail": explanation_report(explanations),
    }


def direct_measure(explanations: Sequence[Explanation], *, split: str) -> dict[str, Any]:
    """The fields of an `artifacts.Measure`: direct accuracy on the questions of `explained_measure`."""
    n = len(explanations)
    correct = sum(one.direct == one.gold for one in explanations)
    return {
        "name": DIRECT.name,
        "protocol_version": VERSION,
        "split": split,
        "value": correct / n,
        "n": n,
        "unit": "questions",
        "wilson95": wilson(correct, n),
        "detail": {},
    }
