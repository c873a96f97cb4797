"""Running text for stage 00: a stream of documents from files, directories and hub data sets larger than memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from lorachain.data.chat import exchange_of, is_chat
from lorachain.data.columns import TEXT_FIELDS
from lorachain.data.json_records import joined
from lorachain.data.normalization import normalize_text
from lorachain.data.read_options import check_effect
from lorachain.data.rows import Located, Row, Tally, field_names, first_of, value_of
from lorachain.data.sources import SourceInfo, SourceReader, resolve, walk
from lorachain.data.tables import TABLE_SUFFIXES
from lorachain.data.text_file import open_file
from lorachain.data.text_io import Line, read_lines
from lorachain.errors import DataError
from lorachain.records import Instruction, PlainText

DEFAULT_HUB_SOURCE = "wikimedia/wikipedia:20231101.ko"
"""Korean Wikipedia, CC BY-SA 4.0: what the MedGemma models read unless the user names something else."""
_PIECES = ("paragraph", "answer")
"""Fields of published corpora whose text is in pieces."""
Document = PlainText | Instruction
"""What stage 00 trains on: all of a text, of an exchange the answer."""
MAX_DOCUMENT_BYTES = 2**20
"""A .txt up to this size is one document; a larger one is split at blank lines, as a corpus in one file is."""


@dataclass(frozen=True)
class PlainTextStream:
    """Documents in the order of the sources, read as they are iterated; they can be iterated once."""

    _readers: Sequence[SourceReader]
    _documents: Iterator[Document]

    def __iter__(self) -> Iterator[Document]:
        return self._documents

    @property
    def sources(self) -> list[SourceInfo]:
        """What was read so far: complete once the stream is consumed. A source that was not reached has no rows."""
        return [reader.info() for reader in self._readers]


def stream_plain_text(
    sources: Sequence[str], *, skip_bad_rows: bool = False, max_samples: int | None = None
) -> PlainTextStream:
    """Documents from .txt and tables (`columns.TEXT_FIELDS`), directories of these, `sample`, or hub ids (split
    `train`, streamed). Rows whose text is blank are not documents; rows that are exchanges are instructions.

    Args:
        max_samples: at most this many documents over all sources, the first ones.

    Raises:
        DataError: at once for a source that does not exist; while iterating for what cannot be read (see
            `read_rows`), for a row without a text field, and for a source without a document.
    """
    if not sources:
        raise DataError("plain text: no source given. Name a file, a directory, a hub id, or `sample`.")
    resolved = [resolve(name, sample="plain_text.jsonl") for name in sources]
    readers = [SourceReader(source, Tally(skip_bad_rows), read_to_end=False) for source in resolved]
    return PlainTextStream(readers, islice(_read(readers), max_samples))


def plain_text_files(root: Path) -> list[Path]:
    """The files of a source, in the order in which they are read. Raises DataError as `walk` does."""
    return walk(root, (".txt", *TABLE_SUFFIXES))


def documents_of_rows(rows: Iterator[Located], tally: Tally) -> Iterator[Document]:
    """A row with a text is a document, one without that is an exchange (`chat`) an instruction.

    Raises:
        DataError: for a bad row unless bad rows are skipped.
    """
    for where, _, row in rows:
        names = {name.strip().casefold() for name in row}
        try:
            text = _text(row)
            chat = exchange_of(row) if text is None and is_chat(row) else None
        except ValueError as error:
            tally.refuse(where, "text", str(error))
            continue
        if text is not None or chat is not None:
            tally.rows += 1
            yield PlainText(text, where) if text is not None else cast(Instruction, chat)
        elif not names & {*TEXT_FIELDS, *_PIECES}:
            tally.refuse(where, f"a field named {', '.join(TEXT_FIELDS)}", f"only {field_names(row)}")


def _text(row: Row) -> str | None:
    """The row's text; a text in pieces as one (`json_records.joined`)."""
    pieces = {name: joined(value_of(row, name)) for name in (*TEXT_FIELDS, *_PIECES)}
    if isinstance(pieces["answer"], str) and isinstance(value_of(row, "answer"), str):
        del pieces["answer"]  # the answer to a question, not a text
    return first_of(pieces, (*TEXT_FIELDS, *_PIECES))


def documents_of_txt(path: Path, tally: Tally, encoding: str | None = None) -> Iterator[PlainText]:
    """The documents of one .txt. Raises DataError as `documents_of_lines` does, or where it cannot be read."""
    return documents_of_lines(path, read_lines(path, encoding), tally, several=is_split(path))


def is_split(path: Path) -> bool:
    """Whether a .txt is large enough to be several documents. Raises DataError where it cannot be read."""
    with open_file(path) as file:
        return os.fstat(file.fileno()).st_size > MAX_DOCUMENT_BYTES


def documents_of_lines(path: Path, lines: Iterable[Line], tally: Tally, *, several: bool) -> Iterator[PlainText]:
    """All lines as one document; or `several`, which end at a blank line, or at the first line end after
    `MAX_DOCUMENT_BYTES` characters, so that no more than that is held in memory.

    Raises:
        DataError: a line is not UTF-8 text, unless bad rows are skipped.
    """
    document: list[str] = []
    size, first = 0, 1
    for number, line, problem in lines:
        if problem:
            tally.refuse(f"{path}:{number}", "a line of UTF-8 text", problem)
            continue
        text = normalize_text(line)
        if several and (not text.strip() or size > MAX_DOCUMENT_BYTES):
            yield from _document(document, path, first, tally)
            document, size = [], 0
        if not document:
            if not text.strip():
                continue
            first = number
        document.append(text)
        size += len(text)
    yield from _document(document, path, first, tally)


def _document(lines: list[str], path: Path, first: int, tally: Tally) -> Iterator[PlainText]:
    if text := "".join(lines).strip():
        tally.rows += 1
        yield PlainText(text, f"{path}:{first}")


def _read(readers: Sequence[SourceReader]) -> Iterator[Document]:
    for reader in readers:
        yield from documents_of_source(reader)
        reader.require_rows("document with text")
        reader.read_to_end = True


def documents_of_source(reader: SourceReader) -> Iterator[Document]:
    """The documents of one source. Raises DataError as `stream_plain_text` does while iterating."""
    if reader.source.path is None:
        yield from documents_of_rows(reader.all_rows(), reader.tally)
        return
    for path in plain_text_files(reader.source.path):
        if path.suffix.casefold() == ".txt":
            check_effect(reader.source.options, path)
            yield from documents_of_txt(reader.open(path), reader.tally, reader.source.options.encoding)
        else:
            yield from documents_of_rows(reader.file_rows(path), reader.tally)
