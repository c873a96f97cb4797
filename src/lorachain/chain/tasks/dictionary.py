"""Stage 01: entries in both directions and several forms, loss on the answer only."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from lorachain.artifacts import Measure
from lorachain.chain.tasks.base import Measures, TaskInputs, require_fitting, single_row_packs
from lorachain.chain.tasks.gated import nonzero, open_gates, other_counts, write_report
from lorachain.chain.tasks.token_cache import records_sha256
from lorachain.data.dictionary import load_dictionary
from lorachain.data.gates.views import DICTIONARY
from lorachain.data.sources import SourceInfo
from lorachain.dictionary_forms import ENTRY_FORM, direction_of, form_name, trained_examples
from lorachain.evaluation.exact_match import exact_match
from lorachain.evaluation.measures import EXACT_MATCH
from lorachain.prompts import directions
from lorachain.records import Term
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenEncoder, TokenRow


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry, and its rows in the token store by direction (`prompts.Direction`): the entry's own form first."""

    term: Term
    rows: dict[str, list[int]]
    shift: int
    """From the seed: with which form it starts."""


@dataclass(frozen=True, slots=True)
class DictionaryTask:
    sources: list[SourceInfo]
    counts: dict[str, int]
    store: TokenStore
    entries: list[_Entry]
    forms: int
    """Forms of each entry per epoch; 0: its own only."""
    sample: list[Term]
    """The entries whose exact match is measured."""
    encoder: TokenEncoder

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        """Every entry `forms` times towards its description, and as often back to the term.

        Where there are several directions (definition and English name) they alternate from turn to turn, half of the
        entries starting with one, half with the other; the forms of a direction follow each other in its turns. An
        entry of which only some forms fit takes turns among these.
        """
        chosen: list[int] = []
        for index, entry in enumerate(self.entries):
            for forward in (True, False):
                ways = [rows for way, rows in entry.rows.items() if way.startswith("term->") == forward]
                for number in range(max(self.forms, 1)):
                    turn = epoch * max(self.forms, 1) + number
                    rows = ways[(turn + index) % len(ways)]
                    form = turn // len(ways) + entry.shift if self.forms else 0
                    chosen.append(rows[form % len(rows)])
        return single_row_packs(self.store, chosen)

    def measure(self, model: nn.Module) -> Measures:
        """Exact match of names over a sample of the trained entries, in the entry's own form and in new ones."""
        own = exact_match(model, self.encoder, self.sample, split=EXACT_MATCH.split)
        new = exact_match(model, self.encoder, self.sample, split=EXACT_MATCH.split, held_out_forms=True)
        return {
            "exact_match": Measure(**own.as_measure()),
            "exact_match_new_forms": Measure(**new.as_measure()),
        }


def load_dictionary_task(inputs: TaskInputs) -> DictionaryTask:
    """The entries that fit `max_length` in every direction, each in those of its forms that fit.

    Raises:
        DataError: a source cannot be read, or no entry is left.
    """
    loaded = load_dictionary(inputs.sources, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)

    gates = open_gates(inputs, DICTIONARY)
    terms = list(gates.kept(loaded.entries))
    report = write_report(inputs, gates, loaded.sources)

    def rows() -> Iterator[TokenRow]:
        for record, term in enumerate(terms):
            for way in directions(term):
                for example in trained_examples(term, way):
                    yield replace(inputs.encoder.encode(example), record=record, form=example.form)

    store = inputs.token_cache({"entries": records_sha256(terms)}).rows("entries", rows)
    entries = [
        _Entry(term, {}, random.Random(f"forms:{inputs.seed}:{record}").randrange(2**16))
        for record, term in enumerate(terms)
    ]
    fits = [True] * len(entries)
    for row, (record, form, length) in enumerate(zip(store.records, store.forms, store.lengths, strict=True)):
        fitting = bool(length <= inputs.stage.max_length)
        if form_name(form) == ENTRY_FORM:
            fits[record] &= fitting
        if fitting:
            entries[record].rows.setdefault(direction_of(form), []).append(row)
    entries = [entry for entry, fit in zip(entries, fits, strict=True) if fit]
    left_out = require_fitting(len(terms), len(entries), inputs, "--dictionary")
    # The seed's text is part of the sample's definition: another one would measure other entries.
    rng = random.Random(f"recall:{inputs.seed}")
    size = min(inputs.validation.exact_match_entries, len(entries))
    return DictionaryTask(
        sources=loaded.sources,
        counts={
            "entries": len(entries),
            "longer_than_max_length_left_out": left_out,
            **nonzero(entries_with_exam_questions_left_out=report.contamination.removed),
            **other_counts(report),
        },
        store=store,
        entries=entries,
        forms=inputs.stage.forms or 0,
        sample=rng.sample([entry.term for entry in entries], size),
        encoder=inputs.encoder,
    )
