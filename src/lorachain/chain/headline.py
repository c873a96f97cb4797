"""What the whole chain changed, in one number: the exam's held-out questions, base against the last stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorachain.artifacts import Measure, TrainingInfo
from lorachain.artifacts.validation import PairedComparison, Proportion, ProtocolResult
from lorachain.chain.context import ChainContext
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.history import read_history
from lorachain.chain.state import StageState
from lorachain.data.dictionary import load_dictionary
from lorachain.data.sources import SAMPLE
from lorachain.errors import LorachainError
from lorachain.evaluation.overlap import overlap_baseline
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.results import baselines
from lorachain.evaluation.validation_result import compare_validations
from lorachain.records import ExamQuestion


@dataclass(frozen=True, slots=True)
class ReasoningExample:
    """One dev question with what the model wrote before the last stage and after it."""

    question: ExamQuestion
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The exam by the protocol that the model is trained for."""

    exams: tuple[str, ...]
    before: ProtocolResult
    after: ProtocolResult
    comparison: PairedComparison
    baselines: Mapping[str, Proportion]
    """What answering without a model scores on the same questions; empty where they cannot be read again."""
    example: ReasoningExample | None


def chain_headline(context: ChainContext, last: StageState) -> Headline | None:
    """The first validation of the chain, of the base, against the epoch of `last` that was kept.

    None where the two were not validated on the same questions: a stage was validated on another exam.
    """
    if not isinstance(last.info, TrainingInfo):
        return None
    history = read_history(last.folder)
    kept = last.info.validation.epoch_kept
    after = next((one for one in history if (one.stage, one.epoch) == (last.stage.name, kept)), None)
    protocol = context.entry.answer_style
    if after is None or not history[0].result.asks_the_same(after.result):
        return None
    before = history[0].result
    questions = _questions(context, after.result.data_sha256)
    return Headline(
        exams=tuple(dict.fromkeys(after.result.questions.exams)),
        before=before.protocols[protocol],
        after=after.result.protocols[protocol],
        comparison=compare_validations(after.result, before, other="the base")[protocol],
        baselines=_baselines(context, questions) if questions else {},
        example=_example(last.info, questions),
    )


def _questions(context: ChainContext, data_sha256: str) -> list[ExamQuestion]:
    """The dev questions that were validated; none where the sources are gone or have others now."""
    limit = context.config.validation.max_questions
    try:
        dev = load_exam_questions(context.sources.exam, max_questions=limit, skip_bad_rows=context.skip_bad_rows).dev
    except LorachainError:
        return []
    return dev if question_set_hash(dev) == data_sha256 else []


def _baselines(context: ChainContext, questions: Sequence[ExamQuestion]) -> dict[str, Proportion]:
    named = {"always the longest option": baselines(questions).always_longest_option}
    if context.sources.exam == [SAMPLE]:  # its questions and its dictionary have one author
        overlap = overlap_baseline(questions, load_dictionary([SAMPLE]).entries)
        named["the option whose definition shares most with the question"] = overlap
    return named


def _example(info: TrainingInfo, questions: Sequence[ExamQuestion]) -> ReasoningExample | None:
    """The first question that is answered correctly after the stage and was not before, or the first of all."""
    before, after = _texts(info.measures.before), _texts(info.measures.after)
    by_id = {(question.exam, question.id): question for question in questions}
    pairs = [(old, new) for old, new in zip(before, after, strict=False) if (new["exam"], new["id"]) in by_id]
    if not pairs:
        return None
    old, new = next((pair for pair in pairs if pair[1]["correct"] and not pair[0]["correct"]), pairs[0])
    return ReasoningExample(by_id[new["exam"], new["id"]], str(old["text"]), str(new["text"]))


def _texts(measures: Mapping[str, Measure]) -> list[dict[str, Any]]:
    measure = measures.get("explained")
    kept = measure.detail.get("examples") if measure is not None else None
    wanted = {"exam", "id", "correct", "text"}
    return [one for one in kept if isinstance(one, dict) and wanted <= one.keys()] if isinstance(kept, list) else []
