"""The exam score that stands beside every epoch: `letters` and `options` on one split, from one forward a question."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.errors import DataError
from lorachain.evaluation.protocols.base import LETTERS_VERSION, OPTIONS_VERSION
from lorachain.evaluation.scoring import QuestionScore, score_questions
from lorachain.evaluation.statistics import (
    CHANCE,
    chance_summary,
    comparison_summary,
    differs_from_chance,
    discordant,
    mcnemar_exact,
    proportion,
)
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder

SCHEMA_VERSION = 1
PROTOCOL_VERSIONS = {"letters": LETTERS_VERSION, "options": OPTIONS_VERSION}


def question_set_hash(questions: Sequence[ExamQuestion]) -> str:
    """SHA-256 over ids, texts, options and answers in order: two scores compare only where it is the same."""
    digest = hashlib.sha256()
    for question in questions:
        fields = [question.exam, question.id, question.subject, question.question, *question.options, question.answer]
        digest.update(json.dumps(fields, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def check_questions(questions: Sequence[ExamQuestion]) -> None:
    """Raises DataError for an empty selection or for ids that occur twice within an exam."""
    if not questions:
        raise DataError("no question to score: the selection is empty; check the exam's split, subjects and limit")
    seen: set[tuple[str, str]] = set()
    for question in questions:
        key = (question.exam, question.id)
        if key in seen:
            raise DataError(f"question id {question.id!r} occurs twice in exam {question.exam!r}; ids must be unique")
        seen.add(key)


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Both protocols on one set of questions; `chosen[protocol][i]` answers question i, as `gold[i]` should be."""

    split: str
    exams: tuple[str, ...]
    subjects: tuple[str, ...]
    ids: tuple[str, ...]
    gold: str
    chosen: dict[str, str]
    data_sha256: str
    seconds: float

    def correct(self, protocol: str) -> list[bool]:
        """Question by question, in the order of `ids`."""
        return [a == b for a, b in zip(self.chosen[protocol], self.gold, strict=True)]

    def accuracy(self, protocol: str) -> float:
        """Fraction right of all questions; for choosing between epochs. `as_dict` gives it with n and interval."""
        return sum(self.correct(protocol)) / len(self.gold)

    def better_than(self, other: "ValidationResult", protocol: str) -> bool:
        """Whether more questions are right than in `other`; a tie is not better, so the earlier epoch stays."""
        self._check_same_questions(other)
        return sum(self.correct(protocol)) > sum(other.correct(protocol))

    def compare_to(self, start: "ValidationResult", other: str = "the start") -> dict[str, dict[str, Any]]:
        """Per protocol: the flips against `start`, exact McNemar p, and the words.

        Raises:
            DataError: the two were made from different questions or splits.
        """
        self._check_same_questions(start)
        found: dict[str, dict[str, Any]] = {}
        for protocol in self.chosen:
            before_only, now_only = discordant(start.correct(protocol), self.correct(protocol))
            found[protocol] = {
                "protocol": protocol,
                "version": PROTOCOL_VERSIONS[protocol],
                "split": self.split,
                "n": len(self.gold),
                "lost": before_only,
                "gained": now_only,
                "mcnemar_p": mcnemar_exact(before_only, now_only),
                "words": comparison_summary(before_only, now_only, other),
            }
        return found

    def _check_same_questions(self, other: "ValidationResult") -> None:
        if self.split != other.split or self.data_sha256 != other.data_sha256:
            raise DataError(
                f"validation results differ in their questions: split {other.split!r} "
                f"({other.data_sha256[:12]}) and {self.split!r} ({self.data_sha256[:12]}); "
                "validate both on the same exam"
            )

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON: every accuracy with n, interval, split, protocol and version; and, to compare with later,
        the ids, the right and the chosen letters, one character a question."""
        return {
            "schema_version": SCHEMA_VERSION,
            "split": self.split,
            "data_sha256": self.data_sha256,
            "n": len(self.gold),
            "seconds": round(self.seconds, 3),
            "protocols": {protocol: self._protocol(protocol) for protocol in self.chosen},
            "questions": {
                "ids": list(self.ids),
                "exams": list(self.exams),
                "subjects": list(self.subjects),
                "gold": self.gold,
                "chosen": dict(self.chosen),
            },
        }

    def _protocol(self, protocol: str) -> dict[str, Any]:
        right = self.correct(protocol)
        correct, n = sum(right), len(right)
        chosen = self.chosen[protocol]
        return {
            "protocol": protocol,
            "version": PROTOCOL_VERSIONS[protocol],
            "split": self.split,
            **proportion(correct, n),
            "chosen_letters": {letter: chosen.count(letter) for letter in LETTERS},
            "chance": CHANCE,
            "p_chance": differs_from_chance(correct, n),
            "words": chance_summary(correct, n),
            "per_exam": _by_group(self.exams, right),
            "per_subject": _by_group(self.subjects, right),
        }

    @staticmethod
    def from_dict(stored: dict[str, Any]) -> "ValidationResult":
        """A result as `as_dict` wrote it.

        Raises:
            DataError: it is of another schema version, or incomplete.
        """
        version = stored.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"a validation result has schema version {version!r}; this lorachain reads {SCHEMA_VERSION}: "
                "validate again"
            )
        try:
            questions = stored["questions"]
            return ValidationResult(
                split=stored["split"],
                exams=tuple(questions["exams"]),
                subjects=tuple(questions["subjects"]),
                ids=tuple(questions["ids"]),
                gold=questions["gold"],
                chosen=dict(questions["chosen"]),
                data_sha256=stored["data_sha256"],
                seconds=float(stored["seconds"]),
            )
        except KeyError as error:
            raise DataError(f"a validation result lacks {error}; validate again") from error


def _by_group(groups: Sequence[str], right: Sequence[bool]) -> dict[str, dict[str, Any]]:
    members: dict[str, list[bool]] = {}
    for group, hit in zip(groups, right, strict=True):
        members.setdefault(group, []).append(hit)
    return {group: proportion(sum(hits), len(hits)) for group, hits in sorted(members.items())}


def validate(
    model: nn.Module,
    encoder: TokenEncoder,
    questions: Sequence[ExamQuestion],
    *,
    split: str = "dev",
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> ValidationResult:
    """Scores every question by `letters` and `options`; the caller adds stage, epoch and step.

    Raises:
        DataError: no questions, an id twice within an exam, or an option without text.
        ModelError: the tokenizer does not tell the five letters apart.
    """
    check_questions(questions)
    begun = time.monotonic()
    scores = score_questions(model, encoder, questions, token_budget=token_budget, on_progress=on_progress)
    return _result(questions, scores, split, time.monotonic() - begun)


def _result(
    questions: Sequence[ExamQuestion], scores: Sequence[QuestionScore], split: str, seconds: float
) -> ValidationResult:
    return ValidationResult(
        split=split,
        exams=tuple(question.exam for question in questions),
        subjects=tuple(question.subject for question in questions),
        ids=tuple(question.id for question in questions),
        gold="".join(question.answer_letter for question in questions),
        chosen={
            "letters": "".join(LETTERS[score.chosen_letter] for score in scores),
            "options": "".join(LETTERS[score.chosen_option] for score in scores),
        },
        data_sha256=question_set_hash(questions),
        seconds=seconds,
    )
