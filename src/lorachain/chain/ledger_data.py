"""The fixed held-out items that every step of a chain is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from lorachain.chain.context import ChainContext, training_sources
from lorachain.chain.exams import ExamQuestions, load_exam_questions
from lorachain.chain.stages import Stage, training_stages
from lorachain.chain.task_inputs import task_inputs
from lorachain.chain.tasks.base import StageTask
from lorachain.chain.tasks.dictionary import DictionaryTask
from lorachain.chain.tasks.plain_text import PlainTextTask
from lorachain.config import LedgerConfig
from lorachain.data.exam import spread
from lorachain.data.make_exam import make_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.errors import DataError
from lorachain.evaluation.exact_match import SHORT_ANSWERS
from lorachain.prompts import Direction, answer_prompt, dictionary_example, directions, plain_text_example
from lorachain.records import ExamQuestion, PlainText, Term
from lorachain.tokens import TokenEncoder, TokenRow

_DIRECTIONS: tuple[Direction, ...] = SHORT_ANSWERS
_PROMPT_TOKENS = 32
"""Of a held-out document: what is continued."""
_GENERAL = ("korean", "english")
_DEV_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class AskedTerm:
    """A dictionary question, and the answer that it was trained with."""

    prompt: list[int]
    expected: str


@dataclass(frozen=True, slots=True)
class LedgerData:
    """What a chain's ledger is measured on. Empty where a source could not be read: its measures are left out."""

    texts: dict[str, list[TokenRow]] = field(default_factory=dict)
    """By measure, a row for each document."""
    terms: list[Term] = field(default_factory=list)
    """All of which stage 01 measures the exact match."""
    asked_terms: int = 0
    """How many of them, the first ones, every step is asked."""
    dictionary_exam: list[ExamQuestion] = field(default_factory=list)
    exam: list[ExamQuestion] = field(default_factory=list)
    text_prompts: list[list[int]] = field(default_factory=list)
    term_prompts: list[AskedTerm] = field(default_factory=list)
    exam_prompts: list[ExamQuestion] = field(default_factory=list)

    def first(self, count: int) -> "LedgerData":
        """The first `count` items of each kind: what is scored again to measure the noise."""
        return LedgerData(
            texts={name: [row for row in rows if row.record < count] for name, rows in self.texts.items()},
            terms=self.terms[:count],
            asked_terms=count,
            dictionary_exam=self.dictionary_exam[:count],
            exam=self.exam[:count],
            text_prompts=self.text_prompts[:count],
            term_prompts=self.term_prompts[:count],
            exam_prompts=self.exam_prompts[:count],
        )


def load_ledger_data(
    context: ChainContext, base: Path, encoder: TokenEncoder, given: dict[str, StageTask] | None = None
) -> LedgerData:
    """Reads every source that the chain is configured with (see `recorded_context`).

    Args:
        base: whose tokenizer `encoder` has.
        given: tasks that are loaded already, by the kind of their source.

    A source that cannot be read is a message: a finished stage's need not be at hand.
    """
    settings = context.config.ledger
    tasks = dict(given or {})
    exam = ExamQuestions([], [], [])
    try:
        exam = _exam_questions(context)
    except DataError as error:
        context.reporter.message(f"the ledger leaves out the exam: {error}")
    for stage in training_stages():
        if stage.source in ("plain_text", "dictionary") and stage.source not in tasks:
            try:
                tasks[stage.source] = _load_task(context, stage, encoder, exam, base)
            except DataError as error:
                context.reporter.message(f"the ledger leaves out what stage {stage.name} trains: {error}")
    texts: dict[str, list[TokenRow]] = {}
    plain = tasks.get("plain_text")
    if isinstance(plain, PlainTextTask) and plain.held_out:
        texts["plain_text"] = _beginnings(plain.held_out, settings)
    for name in _GENERAL:
        texts[name] = _documents([_general_sample(name)], encoder, settings)
    for source in settings.text:
        texts[f"text_{text_name(source)}"] = _documents([source], encoder, settings)
    dictionary = tasks.get("dictionary")
    terms = dictionary.sample if isinstance(dictionary, DictionaryTask) else []
    entries = [entry.term for entry in dictionary.entries] if isinstance(dictionary, DictionaryTask) else []
    return LedgerData(
        texts=texts,
        terms=terms,
        asked_terms=settings.entries,
        dictionary_exam=_dictionary_exam(context, entries),
        exam=exam.dev,
        text_prompts=_text_prompts(texts.get("plain_text", []), settings.prompts),
        term_prompts=_term_prompts(terms, encoder, settings.prompts),
        exam_prompts=spread(exam.dev, settings.prompts) if exam.dev else [],
    )


def text_name(source: str) -> str:
    """What a user's text is called in the ledger: the file's name without its ending, or the hub id's last part."""
    return Path(source).stem or source


def exam_prompt_ids(encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[list[int]]:
    return [encoder.prompt_ids(answer_prompt(question)) for question in questions]


def load_stage_task(context: ChainContext, stage: Stage, base: Path, encoder: TokenEncoder) -> StageTask:
    """A training stage's data, as its training loads it.

    Raises:
        DataError: a source cannot be read.
    """
    exam = _exam_questions(context)
    return _load_task(context, stage, encoder, exam, base)


def _exam_questions(context: ChainContext) -> ExamQuestions:
    limit = context.config.validation.max_questions
    return load_exam_questions(context.sources.exam, max_questions=limit, skip_bad_rows=context.skip_bad_rows)


def _load_task(
    context: ChainContext, stage: Stage, encoder: TokenEncoder, exam: ExamQuestions, base: Path
) -> StageTask:
    return stage.load_task()(
        task_inputs(
            context,
            stage,
            training_sources(context, stage),
            exam,
            base=base,
            encoder=encoder,
            cache=context.workspace.token_cache(stage.name, context.model),
            on_message=lambda text: None,
        )
    )


def _general_sample(name: str) -> str:
    return str(files("lorachain").joinpath("data", "samples", "general", f"{name}.jsonl"))


def _documents(sources: list[str], encoder: TokenEncoder, settings: LedgerConfig) -> list[TokenRow]:
    stream = stream_plain_text(sources, max_samples=settings.documents)
    documents = enumerate(document for document in stream if isinstance(document, PlainText))
    rows = [replace(encoder.encode(plain_text_example(document)), record=number) for number, document in documents]
    return _beginnings(rows, settings)


def _beginnings(rows: list[TokenRow], settings: LedgerConfig) -> list[TokenRow]:
    """The first tokens of the first documents; of a document in pieces, its first piece."""
    first = {row.record: row for row in reversed(rows)}
    chosen = [first[record] for record in sorted(first)][: settings.documents]
    return [replace(row, ids=row.ids[: settings.document_tokens]) for row in chosen]


def _dictionary_exam(context: ChainContext, entries: list[Term]) -> list[ExamQuestion]:
    """Questions from the entries that the dictionary stage trains, in a form that no stage does."""
    limit = round(context.config.ledger.dictionary_questions / _DEV_FRACTION)
    try:
        return make_exam(entries, seed=context.config.seed, dev_fraction=_DEV_FRACTION, limit=limit)["dev"]
    except DataError:  # too few entries that differ
        return []


def _text_prompts(rows: list[TokenRow], count: int) -> list[list[int]]:
    """The beginnings of held-out documents, no further than half of each."""
    return [row.ids[: max(2, min(_PROMPT_TOKENS, len(row) // 2))] for row in rows[:count]]


def _term_prompts(terms: list[Term], encoder: TokenEncoder, count: int) -> list[AskedTerm]:
    """One question an entry, the directions in turn."""
    asked = []
    for number, term in enumerate(terms[:count]):
        possible = [way for way in _DIRECTIONS if way in directions(term)]
        if not possible:
            continue
        example = dictionary_example(term, possible[number % len(possible)])
        if example.prompt is not None:
            asked.append(AskedTerm(encoder.prompt_ids(example.prompt), example.completion.strip()))
    return asked
