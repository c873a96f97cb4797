"""Exchanges of a user and a model in the layouts of chat data sets.

`messages` with `role` and `content` (OpenAI, TRL), `conversations` with `from` and `value` (ShareGPT), `instruction`,
`input` and `output` (Alpaca), or any prompt with a completion.
"""

from collections.abc import Mapping

from lorachain.data.columns import COMPLETION_FIELDS, INPUT_FIELDS, MESSAGES_FIELDS, PROMPT_FIELDS
from lorachain.data.json_records import joined
from lorachain.data.normalization import NULL_MARKERS
from lorachain.data.rows import Row, field_names, first_of, shorten, text_of, value_of
from lorachain.records import Instruction

EXPECTED = "messages of a user and an assistant, or a prompt and a completion"
MAX_EXCHANGES = 64
"""Of one conversation: each answer is trained after all turns before it, so that their tokens grow with the square."""
_OF_AN_EXAM = ("A", "보기1", "options", "choices")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "model", "gpt", "bot", "chatgpt"), "assistant"),
}


def has_messages(row: Row) -> bool:
    return any(value_of(row, name) is not None for name in MESSAGES_FIELDS)


def is_chat(row: Row) -> bool:
    """Whether a row is an exchange rather than a text: it has messages, or a prompt with an answer."""
    names = {name.strip().casefold() for name in row}
    return has_messages(row) or bool(names & set(PROMPT_FIELDS) and names & set(COMPLETION_FIELDS))


def exchange_of(row: Row) -> Instruction:
    """The messages of a user, each with its answer.

    Raises:
        ValueError: says what was found instead.
    """
    if has_messages(row):
        return _conversation(next(value for name in MESSAGES_FIELDS if (value := value_of(row, name)) is not None))
    if option := next((name for name in _OF_AN_EXAM if value_of(row, name) is not None), None):
        raise ValueError(f"a question with options (the field {option}): name it as an exam")
    prompt = first_of(row, PROMPT_FIELDS)
    completion = first_of({name: joined(value) for name, value in row.items()}, COMPLETION_FIELDS)
    if prompt is None or completion is None:
        missing = (
            f"prompt ({', '.join(PROMPT_FIELDS)})" if prompt is None else f"answer ({', '.join(COMPLETION_FIELDS)})"
        )
        raise ValueError(f"no {missing} among the fields {field_names(row)}")
    given = first_of(row, INPUT_FIELDS)
    return Instruction(f"{prompt}\n\n{given}" if given else prompt, completion)


def _conversation(messages: object) -> Instruction:
    """User messages and their answers in turn, the first after the system message where there is one; up to
    `MAX_EXCHANGES`, or to the first message that is none of the two, is empty or out of turn.

    Raises:
        ValueError: the messages do not begin with such an exchange.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError(f"messages that are {shorten(messages)}")
    turns = [
        (_role(message), text_of(message.get("content", message.get("value")), NULL_MARKERS)) for message in messages
    ]
    system = ""
    if turns and turns[0][0] == "system":
        system = f"{turns[0][1]}\n\n" if turns[0][1] else ""
        turns = turns[1:]
    if len(turns) < 2 or turns[0][0] != "user" or turns[1][0] != "assistant":
        raise ValueError(f"messages with the roles {', '.join(role for role, _ in turns) or '(none)'}")
    exchanges: list[tuple[str, str]] = []
    for (role, message), (next_role, answer) in zip(turns[::2], turns[1::2], strict=False):
        in_turn = (role, next_role) == ("user", "assistant")
        if not in_turn or message is None or answer is None or len(exchanges) == MAX_EXCHANGES:
            break
        exchanges.append((message, answer))
    if not exchanges:
        raise ValueError("an empty message")
    (prompt, completion), *later = exchanges
    return Instruction(f"{system}{prompt}", completion, tuple(later))


def _role(message: Mapping[str, object]) -> str:
    given = str(message.get("role", message.get("from")))
    return _ROLES.get(given.casefold(), given)
