"""The result of a validation: from chosen letters to scores, and against an earlier result. Imports no torch."""

from collections.abc import Sequence

from lorachain.artifacts.validation import (
    Answers,
    PairedComparison,
    Proportion,
    ProtocolResult,
    ValidationResult,
)
from lorachain.evaluation.protocols.base import LETTERS_VERSION, OPTIONS_VERSION
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.statistics import (
    CHANCE,
    chance_summary,
    comparison_summary,
    differs_from_chance,
    discordant,
    mcnemar_exact,
    proportion,
)
from lorachain.prompts import PROMPT_VERSION
from lorachain.records import LETTERS, ExamQuestion

PROTOCOL_VERSIONS = {"letters": LETTERS_VERSION, "options": OPTIONS_VERSION}


def summarize_validation(
    questions: Sequence[ExamQuestion], chosen: dict[str, str], split: str, seconds: float
) -> ValidationResult:
    """The result from the letters that each protocol chose, one a question."""
    answers = Answers(
        ids=tuple(question.id for question in questions),
        exams=tuple(question.exam for question in questions),
        subjects=tuple(question.subject for question in questions),
        gold="".join(question.answer_letter for question in questions),
        chosen=chosen,
    )
    return ValidationResult(
        split=split,
        data_sha256=question_set_hash(questions),
        prompt_version=PROMPT_VERSION,
        n=len(questions),
        seconds=round(seconds, 3),
        protocols={protocol: _protocol(protocol, answers, split) for protocol in chosen},
        questions=answers,
    )


def compare_validations(
    result: ValidationResult, start: ValidationResult, other: str = "the start"
) -> dict[str, PairedComparison]:
    """Per protocol: the questions lost and gained against `start`, and the exact McNemar p.

    Raises:
        DataError: the two were made from different questions or splits.
    """
    result.check_same_questions(start)
    comparisons = {}
    for protocol in result.protocols:
        lost, gained = discordant(start.correct(protocol), result.correct(protocol))
        comparisons[protocol] = PairedComparison(
            protocol=protocol,
            protocol_version=PROTOCOL_VERSIONS[protocol],
            split=result.split,
            n=result.n,
            lost=lost,
            gained=gained,
            mcnemar_p=mcnemar_exact(lost, gained),
            summary=comparison_summary(lost, gained, other),
        )
    return comparisons


def _protocol(protocol: str, answers: Answers, split: str) -> ProtocolResult:
    chosen = answers.chosen[protocol]
    correct = [a == b for a, b in zip(chosen, answers.gold, strict=True)]
    count, n = sum(correct), len(correct)
    return ProtocolResult(
        **proportion(count, n),
        protocol=protocol,
        protocol_version=PROTOCOL_VERSIONS[protocol],
        split=split,
        summary=chance_summary(count, n),
        chosen_letters={letter: chosen.count(letter) for letter in LETTERS},
        chance=CHANCE,
        p_chance=differs_from_chance(count, n),
        per_exam=_by_group(answers.exams, correct),
        per_subject=_by_group(answers.subjects, correct),
    )


def _by_group(groups: Sequence[str], correct: Sequence[bool]) -> dict[str, Proportion]:
    members: dict[str, list[bool]] = {}
    for group, hit in zip(groups, correct, strict=True):
        members.setdefault(group, []).append(hit)
    return {group: Proportion(**proportion(sum(hits), len(hits))) for group, hits in sorted(members.items())}
