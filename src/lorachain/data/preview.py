"""A first look at a source before any weights are touched: is it what it is said to be, and about how large?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from lorachain.data import hub
from lorachain.data.dictionary import entries_of_rows
from lorachain.data.exam import exam_split, hub_splits, no_split_error, questions_of_rows
from lorachain.data.exam_files import exam_files
from lorachain.data.instruct import instructions_of_rows
from lorachain.data.parquet import count_parquet_rows
from lorachain.data.plain_text import documents_of_lines, documents_of_rows, is_split, plain_text_files
from lorachain.data.read_options import check_effect
from lorachain.data.rows import Located, Tally
from lorachain.data.sources import Source, SourceReader, resolve, suffix_of, walk
from lorachain.data.splits import Split, canonical_split
from lorachain.data.staleness import SAMPLE_PARTS, Reading
from lorachain.data.tables import TABLE_SUFFIXES, WHOLE_SUFFIXES, read_rows
from lorachain.data.text_file import open_file
from lorachain.data.text_io import Line, read_lines
from lorachain.errors import DataError

PREVIEW_ROWS = 100
"""Rows of each table, or lines of each .txt, that are parsed."""
_HEAD_BYTES = 2**26
"""Of each file, whose lines are counted: the number of lines of a longer one is estimated from them."""
_SPLITS: dict[Reading, tuple[Split, ...]] = {
    "exam for training": ("train",),
    "exam for validation": ("dev", "fewshot"),
}
"""The first of them is counted."""
_RECORDS: dict[Reading, str] = {
    "plain text": "document with text",
    "dictionary": "entry",
    "instructions": "instruction",
    "exam for training": "train question",
    "exam for validation": "dev question",
}


_PARSERS: dict[Reading, Callable[[Iterator[Located], Tally], Iterator[object]]] = {
    "plain text": documents_of_rows,
    "dictionary": entries_of_rows,
    "instructions": instructions_of_rows,
}


@dataclass(frozen=True, slots=True)
class SourcePreview:
    """What the first rows of a source show."""

    name: str
    reading: Reading
    parts: int
    """Files of the counted split, or configurations of a hub data set."""
    records: int | None
    """About how many records reading will give, duplicates included; None where a hub data set does not state it."""
    exact: bool
    """Whether `records` was counted."""


def preview_sources(names: Sequence[str], reading: Reading, *, skip_bad_rows: bool = False) -> list[SourcePreview]:
    """Previews of all sources of one reading. Of several exams some may lack the split, as in `load_exam`.

    Raises:
        DataError: as `preview_source`; no source has the split.
    """
    optional = reading in _SPLITS and len(names) > 1
    previews = [preview_source(name, reading, skip_bad_rows=skip_bad_rows, optional=optional) for name in names]
    if optional and not any(preview.parts for preview in previews):
        preview_source(names[0], reading, skip_bad_rows=skip_bad_rows)  # raises: no split
    return previews


def preview_source(
    name: str, reading: Reading, *, skip_bad_rows: bool = False, optional: bool = False
) -> SourcePreview:
    """Opens every file of a source that `reading` uses and parses its header and first rows as the reader would.

    Of a hub data set only commit, configurations and splits are resolved; offline they are taken from the cache.

    Args:
        optional: an exam that has other splits than the one it is read for counts as one of no parts.

    Raises:
        DataError: what the reader would raise on these rows: the source does not exist or lacks the split, a file
            cannot be opened or decoded, its header or a row is not as expected, or the source has no record.
    """
    source = resolve(name, sample=SAMPLE_PARTS[reading])
    if optional and (splits := _splits_of(source)) and _SPLITS[reading][0] not in splits:
        return SourcePreview(name, reading, 0, 0, exact=True)
    if reading == "exam for validation" and source.options.split is not None:
        return SourcePreview(name, reading, 0, 0, exact=True)  # it is only trained on
    if source.path is None:
        return _preview_hub(source, reading)
    tally = _PreviewTally(skip_bad_rows)
    counts = [count for count in _preview_files(source, source.path, reading, tally) if count is not None]
    if all(count.exact for count in counts):
        SourceReader(source, tally).require_rows(_RECORDS[reading])
    return SourcePreview(name, reading, len(counts), sum(c.records for c in counts), all(c.exact for c in counts))


def _splits_of(source: Source) -> set[str]:
    if source.path is not None:
        return {str(file.split) for file in exam_files(source.path)}
    return {str(canonical_split(name)) for _, name in hub_splits(SourceReader(source, Tally()))}


@dataclass(frozen=True, slots=True)
class _Count:
    records: int
    exact: bool


class _EnoughError(Exception):
    """Ends a look at a file of bad rows only, which would otherwise be read to its end."""


@dataclass
class _PreviewTally(Tally):
    def refuse(self, where: str, expected: str, actual: str) -> None:
        Tally.refuse(self, where, expected, actual)
        if self.bad_rows % PREVIEW_ROWS == 0:
            raise _EnoughError


Item = TypeVar("Item", Located, Line)


@dataclass
class _First(Generic[Item]):
    """The first items of an iterator, and whether there are more."""

    items: Iterator[Item]
    limit: int | None = PREVIEW_ROWS
    last: int = field(default=0, init=False)
    """Number of the last line or row that was taken."""
    complete: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Item]:
        for item in islice(self.items, self.limit):
            self.last = item.number
            yield item
        self.complete = next(self.items, None) is None


def _preview_files(source: Source, root: Path, reading: Reading, tally: Tally) -> Iterator[_Count | None]:
    """The count of each file that is counted, None for the others.

    Raises:
        DataError: as `preview_source`.
    """
    if reading not in _SPLITS:
        for path in plain_text_files(root) if reading == "plain text" else walk(root, TABLE_SUFFIXES):
            if suffix_of(path.name) == ".txt":
                yield _preview_txt(path, source, tally)
            else:
                rows = _first_rows(path, source, tally)
                yield _count(path, _PARSERS[reading](iter(rows), tally), rows)
        return
    files = exam_files(root)
    counted, *others = _SPLITS[reading]
    if counted not in {file.split for file in files}:
        raise no_split_error(source, counted, {file.split for file in files})
    for file in files:
        if file.split == counted or file.split in others:
            file_tally = tally if file.split == counted else _PreviewTally(tally.skip_bad_rows)
            rows = _first_rows(file.path, source, file_tally)
            questions = questions_of_rows(iter(rows), file_tally, exam=source.short_name, subject=file.subject)
            count = _count(file.path, questions, rows)
            yield count if file.split == counted else None


def _first_rows(path: Path, source: Source, tally: Tally) -> _First[Located]:
    """Of what is read at once in any case, such as a .json, all rows are taken."""
    limit = None if suffix_of(path.name) in WHOLE_SUFFIXES else PREVIEW_ROWS
    return _First(read_rows(path, tally, source.options), limit)


def _preview_txt(path: Path, source: Source, tally: Tally) -> _Count:
    check_effect(source.options, path)
    lines = _First(read_lines(path, source.options.encoding))
    several = is_split(path)
    count = _count(path, documents_of_lines(path, lines, tally, several=several), lines)
    return count if several or not count.records else _Count(1, exact=True)


def _count(path: Path, records: Iterable[object], first: _First[Located] | _First[Line]) -> _Count:
    """Consumes the records of the first rows of a file and estimates how many all of its rows give."""
    number = 0
    try:
        for _ in records:
            number += 1
    except _EnoughError:
        return _Count(number, exact=False)
    if first.complete:
        return _Count(number, exact=True)
    if suffix_of(path.name) == ".parquet":
        total = count_parquet_rows(path)
    else:
        with open_file(path) as file:
            head = file.read(_HEAD_BYTES)
        total = max(head.count(b"\n"), 1) * path.stat().st_size // len(head)
    return _Count(round(number * max(total / first.last, 1)), exact=False)


def _preview_hub(source: Source, reading: Reading) -> SourcePreview:
    reader = SourceReader(source, Tally())
    revision = reader.hub_revision()
    if reading in _SPLITS:
        split = _SPLITS[reading][0]
        names = hub_splits(reader)
        chosen: list[tuple[str | None, str]] = [(c, name) for c, name in names if exam_split(source, name) == split]
        if not chosen:
            raise no_split_error(source, split, {name for _, name in names})
    else:
        splits = hub.splits(source.repo, source.config, revision)
        wanted = source.options.split or "train"
        if wanted not in splits:
            raise DataError(
                f"{source.name}: no split {wanted}; found: {', '.join(sorted(splits)) or 'none'}. Name one of them "
                "(owner/name#split=NAME), another configuration (owner/name:config), or a local copy."
            )
        chosen = [(source.config, wanted)]
    counts = [hub.row_counts(source.repo, config, revision).get(name) for config, name in chosen]
    known = [count for count in counts if count is not None]
    return SourcePreview(
        source.name, reading, len(chosen), sum(known) if len(known) == len(counts) else None, exact=False
    )
