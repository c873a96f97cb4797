"""Writes reasoning for a chain's training questions: what is read, who writes, and where it goes."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from lorachain.artifacts.reasoning import ReasoningInputs, ReasoningReport, WriterIdentity, WrittenUnit
from lorachain.atomic import atomic_folder
from lorachain.chain.context import ChainContext, writing_settings
from lorachain.chain.exams import load_exam_questions
from lorachain.chain.reasoning_state import journal_path, scorer_sha256
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import ScoredModel
from lorachain.chain.source_records import source_records, sources_hash
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam, load_fewshot, spread
from lorachain.data.gates.held_out import open_text_screen, without_same_questions
from lorachain.data.sources import SourceInfo
from lorachain.errors import DataError
from lorachain.inference.engines.base import EngineIdentity, TextEngine, TextRequest
from lorachain.inference.shared_work import shared_inference
from lorachain.licences import writer_licence
from lorachain.prompts import PROMPT_VERSION, options_depend_on_order
from lorachain.provenance import sha256_json
from lorachain.reasoning.examples import WorkedExamples
from lorachain.reasoning.journal import ReasoningJournal
from lorachain.reasoning.orders import in_order, sample_order
from lorachain.reasoning.publish import publish_reasoning
from lorachain.reasoning.requests import writing_request
from lorachain.reasoning.sample import Sample, question_key
from lorachain.reasoning.support import ModelScorer
from lorachain.reasoning.term_check import TermCheck
from lorachain.reasoning.verifier import Verifier
from lorachain.reasoning.write import write_reasoning
from lorachain.reasoning.writer import Writer, WritingSettings
from lorachain.records import ExamQuestion, Term
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer

_PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class WriterChoice:
    """Who writes: the engine's identity, and what opens it, from the loaded model and its tokenizer."""

    identity: EngineIdentity
    open: Callable[[nn.Module, TokenEncoder], TextEngine]
    needs_examples: bool
    """False for a writer that was trained on reasoning."""
    chat_turns: bool
    """Whether a request's text has the turns of the model's chat template; servers get a message instead."""


@dataclass(frozen=True, slots=True)
class WritingData:
    """What reasoning is written for, and what it is checked against."""

    questions: list[ExamQuestion]
    """Training questions without reasoning whose options can be reordered."""
    skipped: dict[str, int]
    held_out: list[ExamQuestion]
    fewshot: list[ExamQuestion]
    dictionary: list[Term]
    sources: list[SourceInfo]
    exam_sources: list[SourceInfo]
    dictionary_sources: list[SourceInfo]


def load_writing_data(context: ChainContext, *, subjects: Sequence[str] | None = None) -> WritingData:
    """The questions of the train split, and the chain's dictionary.

    Raises:
        DataError: a source cannot be read.
    """
    sources, skip = context.sources, context.skip_bad_rows
    train = load_exam(sources.exam, "train", subjects=subjects, skip_bad_rows=skip)
    held_out = load_exam_questions(sources.exam, max_questions=0, skip_bad_rows=skip)
    fewshot = load_fewshot(sources.exam, skip_bad_rows=skip)
    dictionary = load_dictionary(sources.dictionary, skip_bad_rows=skip)
    questions, also_held_out = without_same_questions(
        train.questions, held_out.held_out, context.config.data.contamination
    )
    without_reasoning = [question for question in questions if not question.reasoning]
    reorderable = [question for question in without_reasoning if not options_depend_on_order(question)]
    selected = spread(reorderable, context.config.reasoning.max_questions or None)
    return WritingData(
        questions=selected,
        skipped={
            "also held out": also_held_out,
            "have reasoning": len(questions) - len(without_reasoning),
            "options keep their order": len(without_reasoning) - len(reorderable),
            "beyond max_questions": len(reorderable) - len(selected),
        },
        held_out=held_out.held_out,
        fewshot=[question for question in fewshot.questions if question.reasoning],
        dictionary=dictionary.entries,
        sources=train.sources,
        exam_sources=held_out.sources,
        dictionary_sources=dictionary.sources,
    )


def write_to(
    context: ChainContext,
    runtime: Runtime,
    data: WritingData,
    model: ScoredModel,
    choice: WriterChoice,
    out: Path,
    *,
    by_parent: bool,
) -> ReasoningReport:
    """Writes, checks and selects reasoning, and publishes it at `out`; an interrupted run resumes. Where every question
    has reasoning already, no model is loaded, and the report says so. Several processes share the work; the main one
    writes the files.

    Args:
        model: scores how much reasoning supports its answer, and writes where the engine is `local`.
        by_parent: whether the stage before writes, as in a run of the chain.

    Raises:
        DataError: no question to write for. EngineError: the writer fails; what is finished is kept.
        WorkspaceError: `out` cannot be written.
    """
    config = context.config.reasoning
    if not data.questions and not data.skipped["have reasoning"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in data.skipped.items() if count)
        raise DataError(f"no training question to write reasoning for ({reasons or 'the train split is empty'})")
    examples = _worked_examples(context, data, model, choice)
    inputs = _inputs(context, data, model, choice, examples)
    journal = ReasoningJournal(journal_path(out), inputs.identity())
    finished = runtime.processes.broadcast(lambda: _finished_units(context, journal))
    samples: list[Sample] = []
    if data.questions:
        samples = _write(context, runtime, data, model, choice, examples, journal, finished)

    def publish() -> ReasoningReport:
        with atomic_folder(out) as staging:
            return publish_reasoning(
                staging,
                samples,
                {question_key(question): question for question in data.questions},
                inputs=inputs,
                fingerprint=sha256_json(inputs.identity()),
                by_parent=by_parent,
                samples_per_question=config.samples,
                skipped=data.skipped,
                licence=writer_licence(choice.identity.model),
                sources=source_records(data.sources),
                exam_sources=source_records(data.exam_sources),
                dictionary_sources=source_records(data.dictionary_sources),
            )

    return runtime.processes.broadcast(publish)


def _finished_units(context: ChainContext, journal: ReasoningJournal) -> list[WrittenUnit]:
    """What an interrupted run has finished; of a run with other settings or data nothing, and its file is moved."""
    finished = journal.read()
    if finished is not None:
        return finished
    aside = journal.path.with_name(f"{journal.path.name}.superseded")
    os.replace(journal.path, aside)
    context.reporter.message(f"an earlier writing run had other settings or data: its samples are in {aside}")
    return []


def _worked_examples(
    context: ChainContext, data: WritingData, model: ScoredModel, choice: WriterChoice
) -> WorkedExamples:
    """The few-shot examples that the writer is shown; none for a writer that was trained on reasoning."""
    config = context.config.reasoning
    tokenizer = TokenEncoder(load_tokenizer(model.base))
    return WorkedExamples(
        data.fewshot,
        shots=0 if config.shots == "auto" and not choice.needs_examples else config.shots,
        style=context.entry.answer_style,
        max_tokens=config.max_prompt_tokens,
        count_tokens=lambda text: len(tokenizer.text_ids(text)),
    )


def writing_fingerprint(context: ChainContext, data: WritingData, model: ScoredModel, choice: WriterChoice) -> str:
    """Of all that what is written depends on, as its report records it."""
    examples = _worked_examples(context, data, model, choice)
    return sha256_json(_inputs(context, data, model, choice, examples).identity())


def _inputs(
    context: ChainContext, data: WritingData, model: ScoredModel, choice: WriterChoice, examples: WorkedExamples
) -> ReasoningInputs:
    """All that what is written depends on, but for how many samples are drawn: more samples only add."""
    identity = model.identity()
    return ReasoningInputs(
        writer=WriterIdentity(**asdict(choice.identity)),
        scorer_sha256=scorer_sha256(identity.base_sha256, identity.adapter_sha256),
        questions=sha256_json([*map(question_key, data.questions), sources_hash(data.sources)]),
        held_out=sources_hash(data.exam_sources),
        examples=sha256_json([examples.text(question) for question in _one_per_subject(data.questions)]),
        dictionary=sources_hash(data.dictionary_sources),
        settings=writing_settings(context.config),
        answer_style=context.entry.answer_style,
        seed=context.config.seed,
        prompt_version=PROMPT_VERSION,
    )


def _write(
    context: ChainContext,
    runtime: Runtime,
    data: WritingData,
    model: ScoredModel,
    choice: WriterChoice,
    examples: WorkedExamples,
    journal: ReasoningJournal,
    finished: Sequence[WrittenUnit],
) -> list[Sample]:
    config = context.config.reasoning
    weights, encoder = model.load(runtime.loading_device, runtime.dtype)
    runtime.distribute(weights)
    engine = choice.open(weights, encoder)
    turns = encoder.turns if choice.chat_turns else None

    def request(question: ExamQuestion, seed: int, hinted: bool) -> TextRequest:
        return writing_request(question, examples.text(question), turns, seed=seed, hinted=hinted)

    writer = Writer(
        engine,
        request,
        WritingSettings(
            samples=config.samples,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            per_question=config.per_question,
            easy_share=config.easy_share,
            rationalize=config.rationalize,
            seed=context.config.seed,
        ),
    )
    verifier = Verifier(
        writer=writer,
        style=context.entry.answer_style,
        score_options=ModelScorer(
            weights, encoder, context.entry.answer_style, examples.text, context.config.validation.token_budget
        ),
        screen=open_text_screen(data.held_out, context.config.data.contamination),
        terms=TermCheck(data.dictionary),
        min_hangul=config.min_hangul,
        orders=config.orders,
    )
    total = len(data.questions) * config.samples
    processes = runtime.processes
    with shared_inference(processes):
        if not finished:
            _announce(context, writer, data.questions, total)
        with context.reporter.bar(f"writing reasoning for {len(data.questions):,} questions", total) as bar:
            return write_reasoning(
                data.questions,
                writer,
                verifier,
                finished,
                store=lambda unit: processes.broadcast(lambda: journal.append(unit)),
                on_progress=lambda drawn, passed: bar(min(drawn, total), f"{passed:,} samples passed"),
            )


def _announce(context: ChainContext, writer: Writer, questions: Sequence[ExamQuestion], total: int) -> None:
    """Says what will be drawn, and how long it may take, from the time of a few tokens for one unit of questions."""
    config = context.config.reasoning
    first = [
        writer.request(in_order(question, sample_order(question, number, 0)), number, False)
        for question in questions[:4]
        for number in range(config.samples)
    ]
    started = time.monotonic()
    writer.complete(first, config.temperature, _PROBE_TOKENS)
    seconds = (time.monotonic() - started) / len(first) * config.max_new_tokens / _PROBE_TOKENS * total
    who = f"{writer.engine.identity.model} ({writer.engine.identity.engine})"
    context.reporter.message(
        f"writing {config.samples} samples for each of {len(questions):,} questions with {who}: at most about "
        f"{_duration(seconds)} if each takes all of its {config.max_new_tokens} tokens, and up to "
        f"{5 / config.samples:.0%} more to verify them"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(1, round(seconds / 60))} min"


def _one_per_subject(questions: Sequence[ExamQuestion]) -> list[ExamQuestion]:
    return [question for _, question in sorted({question.subject: question for question in questions}.items())]
