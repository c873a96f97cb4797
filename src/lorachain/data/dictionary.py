"""Dictionary entries for stage 01, from tables with Korean or English column names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorachain.data.columns import CATEGORY_FIELDS, CODE_FIELDS, DEFINITION_FIELDS, ENGLISH_FIELDS, TERM_FIELDS
from lorachain.data.record_reader import read_records
from lorachain.data.rows import Located, Row, Tally, field_names, first_of, shorten
from lorachain.data.sources import SourceInfo
from lorachain.records import Term


@dataclass(frozen=True)
class LoadedDictionary:
    entries: list[Term]
    sources: list[SourceInfo]
    duplicates: int = 0
    """Entries left out because one equal in every field came before, over all sources."""


def load_dictionary(
    sources: Sequence[str], *, skip_bad_rows: bool = False, max_samples: int | None = None
) -> LoadedDictionary:
    """Entries in the order of the sources, exact duplicates dropped.

    Entries with the same term and different descriptions are all kept: homonyms and synonyms are real. A category is
    taken from `category`, or else from a classification `code`, its part before the dot (A00.1 belongs to A00).

    Raises:
        DataError: as `read_records`; a row lacks a term, or both a definition and an English name.
    """
    entries, infos = read_records(
        sources,
        entries_of_rows,
        sample="dictionary.jsonl",
        what="dictionary",
        record="entry",
        skip_bad_rows=skip_bad_rows,
        max_samples=max_samples,
    )
    return LoadedDictionary(entries, infos, duplicates=sum(info.rows for info in infos) - len(entries))


def entries_of_rows(rows: Iterator[Located], tally: Tally) -> Iterator[Term]:
    """Raises DataError for a bad row unless bad rows are skipped."""
    for where, _, row in rows:
        try:
            entry = _entry(row)
        except ValueError as error:
            tally.refuse(where, "a term with a definition or an English name", str(error))
            continue
        tally.rows += 1
        yield entry


def _entry(row: Row) -> Term:
    """Raises ValueError that says what was found instead of an entry."""
    term = first_of(row, TERM_FIELDS)
    definition = first_of(row, DEFINITION_FIELDS)
    english = first_of(row, ENGLISH_FIELDS)
    if term is None:
        raise ValueError(f"no term ({', '.join(TERM_FIELDS)}) among the fields {field_names(row)}")
    if definition is None and english is None:
        raise ValueError(
            f"neither a definition nor an English name for {shorten(term)} among the fields {field_names(row)}"
        )
    category = first_of(row, CATEGORY_FIELDS)
    if category is None and (code := first_of(row, CODE_FIELDS)):
        category = code.partition(".")[0] or None
    return Term(term, definition, english, category)
