"""General instructions with their answers, for replay: tables with `messages`, or with a prompt and a completion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorachain.data.normalization import NULL_MARKERS
from lorachain.data.rows import Located, Row, Tally, field_names, first_of, shorten, text_of, value_of
from lorachain.data.sources import SourceInfo, SourceReader, resolve
from lorachain.records import Instruction

PROMPT_FIELDS = ("prompt", "instruction", "질문")
COMPLETION_FIELDS = ("completion", "response", "output", "답변")
MESSAGES_FIELD = "messages"
_ANSWERING_ROLES = ("assistant", "model")


@dataclass(frozen=True)
class LoadedInstructions:
    instructions: list[Instruction]
    sources: list[SourceInfo]


def load_instructions(
    sources: Sequence[str], *, skip_bad_rows: bool = False, max_samples: int | None = None
) -> LoadedInstructions:
    """Instructions in the order of the sources, exact duplicates dropped.

    Args:
        sources: .json, .jsonl, .csv, .tsv, .parquet files, directories of these, `sample`, or hub ids (split `train`).
        max_samples: at most this many over all sources, the first ones.

    Raises:
        DataError: a source does not exist, cannot be read (see `read_rows`) or has no instruction; a row has neither
            `messages` nor a prompt with a completion.
    """
    resolved = [resolve(name, sample="instruct.jsonl") for name in sources]
    instructions: dict[Instruction, None] = {}
    infos: list[SourceInfo] = []
    for source in resolved:
        reader = SourceReader(source, Tally(skip_bad_rows))
        if max_samples is not None and len(instructions) >= max_samples:
            reader.read_to_end = False
            infos.append(reader.info())  # named and not reached: no rows
            continue
        for instruction in instructions_of_rows(reader.all_rows(), reader.tally):
            instructions.setdefault(instruction)
            if max_samples is not None and len(instructions) >= max_samples:
                reader.read_to_end = False
                break
        reader.require_rows("instruction")
        infos.append(reader.info())
    return LoadedInstructions(list(instructions), infos)


def instructions_of_rows(rows: Iterator[Located], tally: Tally) -> Iterator[Instruction]:
    """Raises DataError for a bad row unless bad rows are skipped."""
    for where, _, row in rows:
        try:
            instruction = _instruction(row)
        except ValueError as error:
            tally.refuse(where, "messages of a user and an assistant, or a prompt and a completion", str(error))
            continue
        tally.rows += 1
        yield instruction


def _instruction(row: Row) -> Instruction:
    """Raises ValueError that says what was found instead of an instruction."""
    messages = value_of(row, MESSAGES_FIELD)
    if messages is not None:
        return _first_exchange(messages)
    prompt, completion = first_of(row, PROMPT_FIELDS), first_of(row, COMPLETION_FIELDS)
    if prompt is None or completion is None:
        missing = (
            f"prompt ({', '.join(PROMPT_FIELDS)})" if prompt is None else f"answer ({', '.join(COMPLETION_FIELDS)})"
        )
        raise ValueError(f"no {missing} among the fields {field_names(row)}")
    return Instruction(prompt, completion)


def _first_exchange(messages: object) -> Instruction:
    """The first user message, after the system message where there is one, and the answer to it. What follows is left
    out: an answer further down depends on turns that a single prompt does not have.

    Raises:
        ValueError: the messages do not begin with such an exchange.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"messages that are {shorten(messages)}")
    turns = [(str(message.get("role")), text_of(message.get("content"), NULL_MARKERS)) for message in messages]
    system = ""
    if turns and turns[0][0] == "system":
        system = f"{turns[0][1]}\n\n" if turns[0][1] else ""
        turns = turns[1:]
    if len(turns) < 2 or turns[0][0] != "user" or turns[1][0] not in _ANSWERING_ROLES:
        raise ValueError(f"messages with the roles {', '.join(role for role, _ in turns) or '(none)'}")
    prompt, completion = turns[0][1], turns[1][1]
    if prompt is None or completion is None:
        raise ValueError("an empty message")
    return Instruction(f"{system}{prompt}", completion)
