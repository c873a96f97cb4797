"""What each stage teaches: its sources as lines of a batch, anew for every epoch, and how it is measured."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lorachain.config import ChainConfig, Sources, StageConfig
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.screening import ExamScreen, disjoint_train
from lorachain.data.sources import SourceInfo
from lorachain.errors import DataError
from lorachain.exam.perplexity import perplexity
from lorachain.exam.recall import recall
from lorachain.prompts import (
    AnswerStyle,
    dictionary_example,
    directions,
    exam_examples,
    plain_text_example,
    shuffled,
)
from lorachain.provenance import sha256_json
from lorachain.records import ExamQuestion, Term
from lorachain.token_store import TokenStore, write_token_store
from lorachain.tokens import TokenEncoder, TokenRow, pack, split_long
from lorachain.training.steps import Line
from lorachain.workspace import StageName, atomic_folder

Measure = dict[str, Any]


class StageTask(Protocol):
    """One stage's data, loaded."""

    sources: list[SourceInfo]
    counts: dict[str, int]

    def lines_of_epoch(self, epoch: int) -> Sequence[Line]: ...

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
    skip_bad_rows: bool
    on_message: Callable[[str], None]


class PlainTextTask:
    """Stage 00: documents packed without seeing each other, loss on every token."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        self._store = self._tokenised()
        heldout_count = min(inputs.config.validation.heldout_documents, len(self._store) // 10)
        by_key = sorted(range(len(self._store)), key=lambda i: (int(self._store.keys[i]), i))
        heldout = set(by_key[:heldout_count])
        max_length = inputs.stage.max_length
        self._heldout = [p for i in sorted(heldout) for p in split_long(self._store.row(i), max_length)]
        # (document, first id) of each piece: enough to cut it out of the store when its step comes.
        step = max_length - 1
        self._pieces = [
            (document, start)
            for document in range(len(self._store))
            if document not in heldout
            for start in range(0, int(self._store.lengths[document]) - 1, step)
        ]
        lengths = [min(step, int(self._store.lengths[d]) - 1 - start) + 1 for d, start in self._pieces]
        self._packs = pack(lengths, max_length)
        self.counts["heldout_documents"] = heldout_count
        self.counts["packs"] = len(self._packs)
        self.counts["tokens_per_epoch"] = sum(lengths)

    def _tokenised(self) -> TokenStore:
        """All documents into a store on disk, anew at each start: only reading them tells what they are."""
        inputs = self._inputs
        stream = stream_plain_text(
            inputs.sources.plain_text, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
        )
        screen = ExamScreen(inputs.held_out)
        self.counts = {"documents": 0, "documents_with_exam_questions_left_out": 0}

        def rows() -> Any:
            for document in stream:
                if screen.holds(document.text):
                    self.counts["documents_with_exam_questions_left_out"] += 1
                    continue
                self.counts["documents"] += 1
                yield inputs.encoder.encode(plain_text_example(document))

        folder = inputs.data_folder / "tokens"
        with atomic_folder(folder) as staging:
            write_token_store(staging / "documents.arrow", rows())
            if self.counts["documents"] < 2:
                raise DataError(
                    f"plain text {inputs.sources.plain_text}: {self.counts['documents']} documents are left to train "
                    "on; at least 2 are needed. Name more with --plain-text"
                )
        self.sources = stream.sources
        return TokenStore(folder / "documents.arrow")

    def lines_of_epoch(self, epoch: int) -> Sequence[Line]:
        return _LazyPacks(self)

    def pack_rows(self, number: int) -> list[TokenRow]:
        step = self._inputs.stage.max_length - 1
        rows = []
        for piece in self._packs[number]:
            document, start = self._pieces[piece]
            ids = self._store.row(document).ids
            rows.append(TokenRow([ids[0], *ids[1 + start : 1 + start + step]], supervised_from=1))
        return rows

    def __len__(self) -> int:
        return len(self._packs)

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


class _LazyPacks(Sequence[Line]):
    """Packs read from the store when their step comes, so a corpus never lies in memory."""

    def __init__(self, task: PlainTextTask) -> None:
        self._task = task

    def __len__(self) -> int:
        return len(self._task)

    def __getitem__(self, index: Any) -> Any:
        return self._task.pack_rows(index)


class DictionaryTask:
    """Stage 01: entries asked in both directions, loss on the answer only."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        loaded = load_dictionary(
            inputs.sources.dictionary, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
        )
        self.sources = loaded.sources
        self._entries = [entry for entry in loaded.entries if self._fits(entry)]
        self.counts = {"entries": len(self._entries)}
        _require_fitting(len(loaded.entries), len(self._entries), inputs, self.counts)
        rng = random.Random(f"recall:{inputs.config.seed}")
        size = min(inputs.config.validation.recall_entries, len(self._entries))
        self._recall_sample: list[Term] = rng.sample(self._entries, size)

    def _fits(self, entry: Term) -> bool:
        rows = (self._inputs.encoder.encode(dictionary_example(entry, way)) for way in directions(entry))
        return all(len(row) <= self._inputs.stage.max_length for row in rows)

    def lines_of_epoch(self, epoch: int) -> list[Line]:
        """Every entry twice an epoch: once towards its description, once back to the term.

        Where there are several ways (definition and English name) they take turns from epoch to epoch, half of the
        entries starting with one, half with the other.
        """
        lines: list[Line] = []
        for index, entry in enumerate(self._entries):
            ways = directions(entry)
            for forward in (True, False):
                options = [way for way in ways if way.startswith("term->") == forward]
                way = options[(epoch + index) % len(options)]
                lines.append([self._inputs.encoder.encode(dictionary_example(entry, way))])
        return lines

    def measure(self, model: nn.Module) -> Measure:
        return {"recall": recall(model, self._inputs.encoder, self._recall_sample, split="trained entries").as_dict()}


class ExamTask:
    """Stage 02: exam questions with options in a new order each epoch, loss on the completion only."""

    def __init__(self, inputs: TaskInputs) -> None:
        self._inputs = inputs
        loaded = load_exam(
            inputs.sources.exam, "train", skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples
        )
        self.sources = loaded.sources
        questions, dropped = disjoint_train(loaded.questions, inputs.held_out)
        self._questions = [question for question in questions if self._fits(question)]
        self.counts = {
            "questions": len(self._questions),
            "questions_with_reasoning": sum(q.reasoning is not None for q in self._questions),
            "questions_also_in_dev_left_out": dropped,
        }
        _require_fitting(len(questions), len(self._questions), inputs, self.counts)

    def _rows(self, question: ExamQuestion) -> list[TokenRow]:
        return [self._inputs.encoder.encode(e) for e in exam_examples(question, self._inputs.answer_style)]

    def _fits(self, question: ExamQuestion) -> bool:
        return all(len(row) <= self._inputs.stage.max_length for row in self._rows(question))

    def lines_of_epoch(self, epoch: int) -> list[Line]:
        rng = random.Random(f"options:{self._inputs.config.seed}:{epoch}")
        return [[row] for question in self._questions for row in self._rows(shuffled(question, rng))]

    def measure(self, model: nn.Module) -> Measure:
        return {}


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
    return sha256_json([[source.name, source.sha256] for source in sources])
