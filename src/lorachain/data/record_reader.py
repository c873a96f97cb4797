"""Reads the records of several sources into memory: what dictionaries and instructions have in common."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lorachain.data.rows import Located, Tally
from lorachain.data.sources import SourceInfo, SourceReader, resolve
from lorachain.errors import DataError

Record = TypeVar("Record")


def read_records(
    sources: Sequence[str],
    parse: Callable[[Iterator[Located], Tally], Iterator[Record]],
    *,
    sample: str,
    what: str,
    record: str,
    skip_bad_rows: bool,
    max_samples: int | None,
) -> tuple[list[Record], list[SourceInfo]]:
    """Different records in the order of the sources, and what was read of each source.

    Args:
        sources: tables (`tables.TABLE_SUFFIXES`), directories of these, `sample`, or hub ids (split `train`).
        parse: makes records of rows; it counts them, and refuses bad rows (`Tally`).
        sample: the path of the embedded sample's part.
        what: what the sources are and `record` what they consist of, for messages.
        max_samples: at most this many records over all sources, the first ones.

    Raises:
        DataError: no source is named; a source does not exist, cannot be read (see `read_rows`) or has no record; a
            row is bad and bad rows are not skipped.
    """
    if not sources:
        raise DataError(f"{what}: no source given. Name a file, a directory, a hub id, or `sample`.")
    resolved = [resolve(name, sample=sample) for name in sources]
    records: dict[Record, None] = {}
    infos: list[SourceInfo] = []
    for source in resolved:
        reader = SourceReader(source, Tally(skip_bad_rows))
        if max_samples is not None and len(records) >= max_samples:
            reader.read_to_end = False
            infos.append(reader.info())  # named and not reached: no rows
            continue
        for item in parse(reader.all_rows(), reader.tally):
            records.setdefault(item)
            if max_samples is not None and len(records) >= max_samples:
                reader.read_to_end = False
                break
        reader.require_rows(record)
        infos.append(reader.info())
    return list(records), infos
