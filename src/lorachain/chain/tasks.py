"""What each stage teaches: its sources as lines of a batch, anew for every epoch, and how it is measured."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from lorachain.chain.token_cache import Facts, TokenCache, records_sha256
from lorachain.config import ChainConfig, Sources, StageConfig
from lorachain.data.decontamination import ExamScreen, without_held_out
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.sources import SourceInfo
from lorachain.data.staleness import reads_the_same
from lorachain.errors import DataError
from lorachain.evaluation.exact_match import exact_match
from lorachain.evaluation.perplexity import perplexity
from lorachain.prompts import (
    AnswerStyle,
    Example,
    dictionary_example,
    directions,
    exam_examples,
    plain_text_example,
    shuffled,
)
from lorachain.provenance import sha256_json
from lorachain.records import ExamQuestion, Term
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenEncoder, TokenRow, pack, split_long
from lorachain.training.batch_schedule import Pack
from lorachain.workspace import StageName

Measure = dict[str, Any]


class StageTask(Protocol):
    """One stage's data, loaded."""

    sources: list[SourceInfo]
    counts: dict[str, int]

    def packs_of_epoch(self, epoch: int) -> Sequence[Pack]: ...

    def measure(self, model: nn.Module) -> Measure:
        """What the stage should improve beyond the exam: held-out perplexity, recall, or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """All that a task may need to load itself."""

    encoder: TokenEncoder
    config: ChainConfig
    stage: StageConfig
    sources: Sources
    held_out: list[ExamQuestion]
    """Dev and few-shot questions, which nothing may be trained on."""
    answer_style: AnswerStyle
    data_folder: Path
    """Where a stage keeps what it made of its sources."""
    tokenizer_sha256: str
    skip_bad_rows: bool
    on_message: Callable[[str], None]

    def token_cache(self, decided_by: dict[str, Any]) -> TokenCache:
        """What earlier starts made of the sources; `decided_by` is what decides the tokens beside the tokenizer."""
        decided_by = {"tokenizer": self.tokenizer_sha256, **decided_by}
        return TokenCache(self.data_folder / "tokens", decided_by, self.on_message)


class PlainTextTask:
    """Stage 00: documents packed without seeing each other, loss on every token."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        self._store = self._kept() or self._tokenized()
        bodies = self._store.lengths.astype(np.int64) - 1  # ids beyond the BOS
        heldout_count = min(inputs.config.validation.heldout_documents, len(bodies) // 10)
        heldout = np.sort(np.argsort(self._store.keys, kind="stable")[:heldout_count])
        max_length = inputs.stage.max_length
        self._heldout = [p for i in heldout.tolist() for p in split_long(self._store.row(i), max_length)]
        # (document, first id of its body) of each piece: enough to cut it out of the store when its step comes.
        self._step = max_length - 1
        documents = np.setdiff1d(np.arange(len(bodies)), heldout, assume_unique=True)
        pieces = -(-bodies[documents] // self._step)
        self._document = np.repeat(documents, pieces)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        self._start = number * self._step
        self._lengths: list[int] = (np.minimum(self._step, bodies[self._document] - self._start) + 1).tolist()
        self._packs = pack(self._lengths, max_length)
        self.counts["heldout_documents"] = heldout_count
        self.counts["packs"] = len(self._packs)
        self.counts["tokens_per_epoch"] = sum(self._lengths)

    def _cache(self) -> TokenCache:
        inputs = self._inputs
        reading = {"max_samples": inputs.stage.max_samples, "skip_bad_rows": inputs.skip_bad_rows}
        return inputs.token_cache({**reading, "held_out": records_sha256(inputs.held_out)})

    def _kept(self) -> TokenStore | None:
        """The documents as an earlier start left them, where reading the sources would give the same."""
        names = self._inputs.sources.plain_text

        def holds(facts: Facts) -> bool:
            sources = [SourceInfo(**source) for source in facts["sources"]]
            if [source.name for source in sources] != names:
                return False
            return all(reads_the_same(source, "plain text") for source in sources)

        found = self._cache().find("documents", holds)
        if found is None:
            return None
        store, facts = found
        self.sources = [SourceInfo(**source) for source in facts["sources"]]
        self.counts: dict[str, int] = dict(facts["counts"])
        return store

    def _tokenized(self) -> TokenStore:
        inputs = self._inputs
        names = inputs.sources.plain_text
        stream = stream_plain_text(names, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)
        screen = ExamScreen(inputs.held_out)
        self.counts = {"documents": 0, "documents_with_exam_questions_left_out": 0}

        def rows() -> Iterator[TokenRow]:
            for document in stream:
                if screen.contains(document.text):
                    self.counts["documents_with_exam_questions_left_out"] += 1
                    continue
                self.counts["documents"] += 1
                yield inputs.encoder.encode(plain_text_example(document))

        def facts() -> Facts:
            if self.counts["documents"] < 2:
                raise DataError(
                    f"plain text {names}: {self.counts['documents']} documents are left to train on; at least 2 are "
                    "needed. Name more with --plain-text"
                )
            self.sources = stream.sources
            return {"sources": [source.as_dict() for source in self.sources], "counts": self.counts}

        return self._cache().keep("documents", rows(), facts)

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        return StoredPacks(self._packs, self._lengths, self._piece)

    def _piece(self, number: int) -> TokenRow:
        return self._store.piece(int(self._document[number]), int(self._start[number]), self._step)

    def measure(self, model: nn.Module) -> Measure:
        if not self._heldout:
            return {}
        result = perplexity(model, self._heldout, token_budget=self._inputs.config.validation.token_budget)
        return {
            "heldout_perplexity": {
                "perplexity": result.perplexity,
                "tokens": result.tokens,
                "documents": self.counts["heldout_documents"],
            }
        }


class DictionaryTask:
    """Stage 01: entries asked in both directions, loss on the answer only."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        loaded = load_dictionary(
            inputs.sources.dictionary, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
        )
        self.sources = loaded.sources
        self._store = inputs.token_cache({"entries": records_sha256(loaded.entries)}).rows(
            "entries",
            lambda: (
                inputs.encoder.encode(dictionary_example(entry, way))
                for entry in loaded.entries
                for way in directions(entry)
            ),
        )
        numbers = iter(range(len(self._store)))
        asked = [(entry, {way: next(numbers) for way in directions(entry)}) for entry in loaded.entries]
        longest, lengths = inputs.stage.max_length, self._store.lengths
        asked = [(entry, rows) for entry, rows in asked if all(lengths[row] <= longest for row in rows.values())]
        self._entries = [entry for entry, _ in asked]
        self._rows = [rows for _, rows in asked]
        """Per entry, the number of its row by the way in which it is asked."""
        self.counts = {"entries": len(self._entries)}
        _require_fitting(len(loaded.entries), len(self._entries), inputs, self.counts)
        rng = random.Random(f"recall:{inputs.config.seed}")
        size = min(inputs.config.validation.exact_match_entries, len(self._entries))
        self._exact_match_entries: list[Term] = rng.sample(self._entries, size)

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        """Every entry twice an epoch: once towards its description, once back to the term.

        Where there are several ways (definition and English name) they take turns from epoch to epoch, half of the
        entries starting with one, half with the other.
        """
        chosen: list[int] = []
        for index, rows in enumerate(self._rows):
            for forward in (True, False):
                options = [row for way, row in rows.items() if way.startswith("term->") == forward]
                chosen.append(options[(epoch + index) % len(options)])
        return _single_rows(self._store, chosen)

    def measure(self, model: nn.Module) -> Measure:
        return {
            "exact_match": exact_match(
                model, self._inputs.encoder, self._exact_match_entries, split="trained entries"
            ).as_dict()
        }


class ExamTask:
    """Stage 02: exam questions with options in a new order each epoch, loss on the completion only."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        loaded = load_exam(
            inputs.sources.exam, "train", skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
        )
        self.sources = loaded.sources
        questions, dropped = without_held_out(loaded.questions, inputs.held_out)
        longest = inputs.stage.max_length
        settings = {"style": inputs.answer_style, "seed": inputs.config.seed, "max_length": longest}
        self._cache = inputs.token_cache({"questions": records_sha256(questions), **settings})
        lengths = iter(self._cache.rows("questions", lambda: self._encoded(questions)).lengths.tolist())
        self._questions = [q for q in questions if max([next(lengths) for _ in self._examples(q)]) <= longest]
        self.counts = {
            "questions": len(self._questions),
            "questions_with_reasoning": sum(q.reasoning is not None for q in self._questions),
            "questions_also_in_dev_left_out": dropped,
        }
        _require_fitting(len(questions), len(self._questions), inputs, self.counts)

    def _examples(self, question: ExamQuestion) -> list[Example]:
        return exam_examples(question, self._inputs.answer_style)

    def _encoded(self, questions: Iterable[ExamQuestion]) -> Iterator[TokenRow]:
        return (self._inputs.encoder.encode(example) for q in questions for example in self._examples(q))

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        rng = random.Random(f"options:{self._inputs.config.seed}:{epoch}")
        store = self._cache.rows(f"epoch-{epoch}", lambda: self._encoded(shuffled(q, rng) for q in self._questions))
        return _single_rows(store, range(len(store)))

    def measure(self, model: nn.Module) -> Measure:
        return {}


def _single_rows(store: TokenStore, chosen: Sequence[int]) -> StoredPacks:
    """A line for each of these rows."""
    lengths = store.lengths.tolist()
    return StoredPacks([[row] for row in chosen], lengths, store.row)


def _require_fitting(found: int, fitting: int, inputs: TaskInputs, counts: dict[str, int]) -> None:
    """Counts what `max_length` leaves out (a cut completion would teach to stop early), and refuses an empty rest."""
    counts["longer_than_max_length_left_out"] = found - fitting
    if not fitting:
        raise DataError(
            f"none of {found} training examples is left: each is longer than {inputs.stage.max_length} tokens or "
            "also in the dev split. Raise --max-length or name another source"
        )
    if fitting < found:
        inputs.on_message(f"{found - fitting} examples longer than {inputs.stage.max_length} tokens are left out")


TASKS: dict[StageName, Callable[[TaskInputs], StageTask]] = {
    "00": PlainTextTask,
    "01": DictionaryTask,
    "02": ExamTask,
}


def sources_hash(sources: Sequence[SourceInfo]) -> str:
    """Of what was read, in its order; what a source is called on the command line is no part of it."""
    return sha256_json([source.sha256 for source in sources])
