"""Stage 01: entries asked in both directions, loss on the answer only."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from lorachain.artifacts import Measure
from lorachain.chain.tasks.base import Measures, TaskInputs, require_fitting, single_row_packs
from lorachain.chain.tasks.token_cache import records_sha256
from lorachain.data.dictionary import load_dictionary
from lorachain.data.sources import SourceInfo
from lorachain.evaluation.exact_match import exact_match
from lorachain.prompts import dictionary_example, directions
from lorachain.records import Term
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenEncoder, TokenRow


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry, and the row in the token store of each direction (`prompts.Direction`) in which it can be asked."""

    term: Term
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class DictionaryTask:
    sources: list[SourceInfo]
    counts: dict[str, int]
    store: TokenStore
    entries: list[_Entry]
    sample: list[Term]
    """The entries whose exact match is measured."""
    encoder: TokenEncoder

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        """Every entry twice: once towards its description, once back to the term.

        Where there are several forms (definition and English name) they alternate from epoch to epoch, half of the
        entries starting with one, half with the other.
        """
        chosen: list[int] = []
        for index, entry in enumerate(self.entries):
            for forward in (True, False):
                rows = [row for way, row in entry.rows.items() if way.startswith("term->") == forward]
                chosen.append(rows[(epoch + index) % len(rows)])
        return single_row_packs(self.store, chosen)

    def measure(self, model: nn.Module) -> Measures:
        """Exact match of names, over a sample of the trained entries."""
        result = exact_match(model, self.encoder, self.sample, split="trained entries")
        return {"exact_match": Measure(**result.as_measure())}


def load_dictionary_task(inputs: TaskInputs) -> DictionaryTask:
    """The entries that fit `max_length` in every direction.

    Raises:
        DataError: a source cannot be read, or no entry is left.
    """
    loaded = load_dictionary(inputs.sources, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)

    def rows() -> Iterator[TokenRow]:
        for record, term in enumerate(loaded.entries):
            for way in directions(term):
                yield replace(inputs.encoder.encode(dictionary_example(term, way)), record=record, form=way)

    store = inputs.token_cache({"entries": records_sha256(loaded.entries)}).rows("entries", rows)
    entries = [_Entry(term, {}) for term in loaded.entries]
    fits = [True] * len(entries)
    for row, (record, way, length) in enumerate(zip(store.records, store.forms, store.lengths, strict=True)):
        entries[record].rows[way] = row
        fits[record] &= bool(length <= inputs.stage.max_length)
    entries = [entry for entry, fit in zip(entries, fits, strict=True) if fit]
    left_out = require_fitting(len(loaded.entries), len(entries), inputs, "--dictionary")
    # The seed's text is part of the sample's definition: another one would measure other entries.
    rng = random.Random(f"recall:{inputs.seed}")
    size = min(inputs.validation.exact_match_entries, len(entries))
    return DictionaryTask(
        sources=loaded.sources,
        counts={"entries": len(entries), "longer_than_max_length_left_out": left_out},
        store=store,
        entries=entries,
        sample=rng.sample([entry.term for entry in entries], size),
        encoder=inputs.encoder,
    )
