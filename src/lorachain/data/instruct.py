"""General instructions with their answers, for replay: chat data in any of the layouts of `chat`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorachain.data.chat import EXPECTED, exchange_of
from lorachain.data.record_reader import read_records
from lorachain.data.rows import Located, Tally
from lorachain.data.sources import SourceInfo
from lorachain.records import Instruction


@dataclass(frozen=True)
class LoadedInstructions:
    instructions: list[Instruction]
    sources: list[SourceInfo]


def load_instructions(
    sources: Sequence[str], *, skip_bad_rows: bool = False, max_samples: int | None = None
) -> LoadedInstructions:
    """Instructions in the order of the sources, exact duplicates dropped.

    Raises:
        DataError: as `read_records`; a row has neither messages nor a prompt with a completion.
    """
    instructions, infos = read_records(
        sources,
        instructions_of_rows,
        sample="instruct.jsonl",
        what="instructions",
        record="instruction",
        skip_bad_rows=skip_bad_rows,
        max_samples=max_samples,
    )
    return LoadedInstructions(instructions, infos)


def instructions_of_rows(rows: Iterator[Located], tally: Tally) -> Iterator[Instruction]:
    """Raises DataError for a bad row unless bad rows are skipped."""
    for where, _, row in rows:
        try:
            instruction = exchange_of(row)
        except ValueError as error:
            tally.refuse(where, EXPECTED, str(error))
            continue
        tally.rows += 1
        yield instruction
