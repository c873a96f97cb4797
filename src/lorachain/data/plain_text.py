"""Running text for stage 00: a stream of documents from files, folders and hub data sets larger than memory."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lorachain.data.rows import TABLE_SUFFIXES, Located, Tally, first_of
from lorachain.data.sources import SourceInfo, SourceReader, resolve, walk
from lorachain.data.text_io import read_lines
from lorachain.errors import DataError
from lorachain.records import PlainText

DEFAULT_HUB_SOURCE = "wikimedia/wikipedia:20231101.ko"
"""Korean Wikipedia, CC BY-SA 4.0: what the MedGemma models read unless the user names something else."""
TEXT_FIELDS = ("text", "content", "document")
MAX_DOCUMENT_BYTES = 2**20
"""A .txt up to this size is one document; a larger one is split at blank lines, as a corpus in one file is."""


class PlainTextStream(Iterator[PlainText]):
    """Documents in the order of the sources, read as they are asked for; can be gone through once."""

    def __init__(self, readers: Sequence[SourceReader], max_samples: int | None) -> None:
        self._readers = readers
        self._documents = islice(self._read(), max_samples)

    def __next__(self) -> PlainText:
        return next(self._documents)

    @property
    def sources(self) -> list[SourceInfo]:
        """What was read so far: whole once the stream is consumed. A source that was not reached has no rows."""
        return [reader.info() for reader in self._readers]

    def _read(self) -> Iterator[PlainText]:
        for reader in self._readers:
            reader.read_to_end = False
        for reader in self._readers:
            for document in _documents(reader):
                reader.tally.rows += 1
                yield document
            reader.require_rows("document with text")
            reader.read_to_end = True


def stream_plain_text(
    sources: Sequence[str], *, skip_bad_rows: bool = False, max_samples: int | None = None
) -> PlainTextStream:
    """Documents from .txt, .jsonl, .json, .csv, .tsv, .parquet (field `text`, `content` or `document`), folders of
    these, `sample`, or hub ids (split `train`, streamed). Rows whose text is blank are no documents.

    Args:
        max_samples: at most so many documents over all sources, the first ones.

    Raises:
        DataError: at once for a source that does not exist; while iterating for what cannot be read (see
            `read_rows`), for a row without a text field, and for a source without a document.
    """
    if not sources:
        raise DataError("plain text: no source given. Name a file, a folder, a hub id, or `sample`.")
    resolved = [resolve(name, sample="plain_text.jsonl") for name in sources]
    return PlainTextStream([SourceReader(source, skip_bad_rows=skip_bad_rows) for source in resolved], max_samples)


def plain_text_files(root: Path) -> list[Path]:
    """The files of a source, in the order in which they are read. Raises DataError as `walk` does."""
    return walk(root, (".txt", *TABLE_SUFFIXES))


def _documents(reader: SourceReader) -> Iterator[PlainText]:
    if reader.source.path is None:
        yield from _from_rows(reader.all_rows(), reader.tally)
        return
    for path in plain_text_files(reader.source.path):
        if path.suffix.casefold() == ".txt":
            yield from _from_txt(reader.open(path), reader.tally)
        else:
            yield from _from_rows(reader.file_rows(path), reader.tally)


def _from_rows(rows: Iterator[Located], tally: Tally) -> Iterator[PlainText]:
    for where, row in rows:
        try:
            text = first_of(row, TEXT_FIELDS)
        except ValueError as error:
            tally.refuse(where, "text", str(error))
            continue
        if text is not None:
            yield PlainText(text, where)
        elif not {str(key).strip().casefold() for key in row} & set(TEXT_FIELDS):
            tally.refuse(where, f"a field named {', '.join(TEXT_FIELDS)}", f"only {sorted(map(str, row))[:12]}")


def _from_txt(path: Path, tally: Tally) -> Iterator[PlainText]:
    """The documents of one .txt. In a large one a document ends at a blank line, or at the first line end after
    `MAX_DOCUMENT_BYTES` characters, so that no more than that is held."""
    split = path.stat().st_size > MAX_DOCUMENT_BYTES
    lines: list[str] = []
    size, first = 0, 1
    for number, text, problem in read_lines(path):
        if problem:
            tally.refuse(f"{path}:{number}", "a line of UTF-8 text", problem)
            continue
        if split and (not text.strip() or size > MAX_DOCUMENT_BYTES):
            yield from _document(lines, path, first)
            lines, size = [], 0
        if not lines:
            if not text.strip():
                continue
            first = number
        lines.append(text)
        size += len(text)
    yield from _document(lines, path, first)


def _document(lines: list[str], path: Path, first: int) -> Iterator[PlainText]:
    if text := "".join(lines).strip():
        yield PlainText(text, f"{path}:{first}")
