"""Stage 00: documents packed with attention confined to each of them, loss on every token; of an exchange of a user and
a model, within the turns of the model's chat template, on the answer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lorachain.artifacts import Measure
from lorachain.chain.tasks.base import Measures, TaskInputs
from lorachain.chain.tasks.gated import gate_identity, has_report, open_gates, other_counts, write_report
from lorachain.chain.tasks.token_cache import Facts, TokenCache, records_sha256
from lorachain.data.gates.views import PLAIN_TEXT
from lorachain.data.plain_text import stream_plain_text
from lorachain.data.sources import SourceInfo
from lorachain.data.staleness import reads_the_same
from lorachain.errors import DataError
from lorachain.evaluation.measures import PERPLEXITY
from lorachain.evaluation.perplexity import document_sums, perplexity, rows_sha256
from lorachain.prompts import instruction_examples, plain_text_example
from lorachain.records import Instruction
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenRow, pack, split_long

MIN_DOCUMENTS = 2
_WHOLE = -1
"""As the start of a piece: a whole row. An exchange is never cut, since its answer depends on all of its prompt."""
HELD_OUT_SHARE = 10
"""At most one in so many documents is held out for perplexity."""


@dataclass(frozen=True, slots=True)
class PlainTextTask:
    """Documents cut into pieces of at most `max_length` tokens, and packs of pieces."""

    sources: list[SourceInfo]
    counts: dict[str, int]
    store: TokenStore
    document: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(P,) the document of each piece."""
    start: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(P,) where in its document's body each piece begins: enough to read it when its step comes."""
    lengths: list[int]
    packs: list[list[int]]
    """Pieces of each pack."""
    body_length: int
    """Ids of a piece without its BOS, at most."""
    held_out: list[TokenRow]
    token_budget: int

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        return StoredPacks(self.packs, self.lengths, self._piece)

    def _piece(self, number: int) -> TokenRow:
        if self.start[number] == _WHOLE:
            return self.store.row(int(self.document[number]))
        return self.store.piece(int(self.document[number]), int(self.start[number]), self.body_length)

    def measure(self, model: nn.Module) -> Measures:
        """Perplexity of the held-out documents."""
        if not self.held_out:
            return {}
        result = perplexity(model, self.held_out, token_budget=self.token_budget)
        sums, tokens = document_sums(self.held_out, result)
        return {
            "heldout_perplexity": Measure(
                name=PERPLEXITY.name,
                protocol_version="1",
                split=PERPLEXITY.split,
                value=result.perplexity,
                n=result.tokens,
                unit=PERPLEXITY.unit,
                detail={
                    "documents": self.counts["heldout_documents"],
                    "rows_sha256": rows_sha256(self.held_out),
                    "document_nll": sums,
                    "document_tokens": tokens,
                },
            )
        }


def load_plain_text_task(inputs: TaskInputs) -> PlainTextTask:
    """The documents, from the token cache where reading the sources would give the same.

    Raises:
        DataError: a source cannot be read, or fewer than two documents are left.
    """
    cache = _cache(inputs)
    store, facts = _cached(inputs, cache) or _tokenized(inputs, cache)
    bodies = store.lengths.astype(np.int64) - 1  # ids without the BOS
    is_chat = store.supervised_from > 1
    texts = np.flatnonzero(~is_chat)
    held_out_count = min(inputs.validation.heldout_documents, len(texts) // HELD_OUT_SHARE)
    held_out = np.sort(texts[np.argsort(store.keys[texts], kind="stable")[:held_out_count]])
    max_length = inputs.stage.max_length
    documents = np.setdiff1d(texts, held_out, assume_unique=True)
    pieces = -(-bodies[documents] // (max_length - 1))
    document = np.repeat(documents, pieces)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # within its document
    start = number * (max_length - 1)
    exchanges = np.flatnonzero(is_chat & (store.lengths <= max_length))
    left_out = int(is_chat.sum()) - len(exchanges)
    if left_out:
        inputs.on_message(f"{left_out} exchanges longer than {max_length} tokens are left out: none can be cut")
    lengths: list[int] = [
        *(np.minimum(max_length - 1, bodies[document] - start) + 1).tolist(),
        *store.lengths[exchanges].tolist(),
    ]
    if not lengths:
        raise DataError(
            f"plain text {inputs.sources}: nothing is left to train on: each exchange is longer than {max_length} "
            "tokens. Raise --max-length or name more with --plain-text"
        )
    packs = pack(lengths, max_length)
    return PlainTextTask(
        sources=[SourceInfo(**source) for source in facts["sources"]],
        counts={
            **facts["counts"],
            "heldout_documents": held_out_count,
            **({"exchanges": len(exchanges), "exchanges_left_out": left_out} if is_chat.any() else {}),
            "packs": len(packs),
            "tokens_per_epoch": sum(lengths),
        },
        store=store,
        document=np.concatenate([document, exchanges]),
        start=np.concatenate([start, np.full(len(exchanges), _WHOLE)]),
        lengths=lengths,
        packs=packs,
        body_length=max_length - 1,
        held_out=[
            replace(piece, record=number)
            for number, row in enumerate(held_out.tolist())
            for piece in split_long(store.row(row), max_length)
        ],
        token_budget=inputs.validation.token_budget,
    )


def _cache(inputs: TaskInputs) -> TokenCache:
    reading = {"max_samples": inputs.stage.max_samples, "skip_bad_rows": inputs.skip_bad_rows}
    decided_by = {**reading, "held_out": records_sha256(inputs.held_out), "gates": gate_identity(inputs)}
    return inputs.token_cache(decided_by)


def _cached(inputs: TaskInputs, cache: TokenCache) -> tuple[TokenStore, Facts] | None:
    def is_current(facts: Facts) -> bool:
        sources = [SourceInfo(**source) for source in facts["sources"]]
        if [source.name for source in sources] != inputs.sources:
            return False
        return has_report(inputs) and all(reads_the_same(source, "plain text") for source in sources)

    return cache.find("documents", is_current)


def _tokenized(inputs: TaskInputs, cache: TokenCache) -> tuple[TokenStore, Facts]:
    stream = stream_plain_text(inputs.sources, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)
    gates = open_gates(inputs, PLAIN_TEXT)
    counts = {"documents": 0, "documents_with_exam_questions_left_out": 0}

    def rows() -> Iterator[TokenRow]:
        for document in gates.kept(stream):
            counts["documents"] += 1
            if isinstance(document, Instruction):
                yield from map(inputs.encoder.encode, instruction_examples(document, inputs.encoder.turns))
            else:
                yield inputs.encoder.encode(plain_text_example(document))

    def facts() -> Facts:
        report = write_report(inputs, gates, stream.sources)
        counts["documents_with_exam_questions_left_out"] = report.contamination.removed
        counts.update(other_counts(report))
        if counts["documents"] < MIN_DOCUMENTS:
            raise DataError(
                f"plain text {inputs.sources}: {counts['documents']} documents are left to train on; at least "
                f"{MIN_DOCUMENTS} are needed. Name more with --plain-text"
            )
        return {"sources": [source.as_dict() for source in stream.sources], "counts": counts}

    return cache.keep("documents", rows(), facts)
