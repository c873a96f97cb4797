"""A tokenizer's chat template, read as the text that it puts around a question and the token that ends an answer.

A template is a program that comes with the model's files. It runs only on short messages made here, under limits, and
what it prints around them is then used for every prompt. transformers already runs templates in Jinja's sandbox, where
they cannot touch files; the limits here are against templates that never end or fill the memory.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import jinja2

from lorachain.errors import ModelError
from lorachain.prompts import ChatTurns, Prompt, render

MAX_TEMPLATE_CHARS = 100_000
"""The longest published templates, with tools, have about 20,000."""
MAX_STEPS = 10_000
"""Lines of the compiled template in one rendering; Gemma's own takes about 50."""
MAX_RENDERED_CHARS = 100_000
"""Of any text that a template builds from the short messages below."""

_OPEN, _CLOSE, _REPLY = "\ue000", "\ue001", "\ue002"
"""Of Unicode's private use area, which no template contains."""
_NEXT = "\ue003b"
_QUESTION = f"{_OPEN}Aa é <&> \"'\\ \n\n 가{_CLOSE}"
"""Contains what a template could change: both cases, an accent, markup, quotes, blank lines, Hangul."""
_NEXT_STEP = "use the tokenizer files published with the model, or remove the template to train without turns"
_LEGACY_FILE = "chat_template.json"
_PROCESSOR_FILE = "processor_config.json"


class ChatTokenizer(Protocol):
    """The part of a `transformers` tokenizer that is needed here."""

    bos_token: str
    chat_template: Any
    added_tokens_decoder: dict[int, Any]

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...


def chat_turns(tokenizer: ChatTokenizer) -> ChatTurns | None:
    """The turns of the tokenizer's chat template, or None if it has none.

    The end of a turn is what the template prints after an assistant's message: `<end_of_turn>` in Gemma's own,
    `<|im_end|>` in ChatML.

    Raises:
        ModelError: the template fails, exceeds a limit, changes the question, or ends an answer with something that
            is not a single token of the tokenizer.
    """
    if not tokenizer.chat_template:
        return None
    _check_source(_default_template(tokenizer.chat_template))
    user = {"role": "user", "content": _QUESTION}
    before, after = _around(_render(tokenizer, [user]), _QUESTION)
    padded = _render(tokenizer, [{"role": "user", "content": f" \n{_QUESTION} \n"}])
    left, right = _around(padded, _QUESTION)
    left_padding, right_padding = left.removeprefix(before), right.removesuffix(after)
    if left_padding not in ("", " \n") or right_padding not in ("", " \n"):
        raise ModelError(f"the chat template changes the blanks around a question; {_NEXT_STEP}")
    conversation = [user, {"role": "assistant", "content": _REPLY}]
    _, end = _around(_render(tokenizer, conversation, prompt=False), _REPLY)
    turns = ChatTurns(
        before=before.removeprefix(tokenizer.bos_token),
        after=after,
        end=_first_token(end, tokenizer),
        strips_start=not left_padding,
        strips_end=not right_padding,
    )
    return _with_conversations(turns, tokenizer)


def _with_conversations(turns: ChatTurns, tokenizer: ChatTokenizer) -> ChatTurns:
    """With what is between the turns of a conversation, where the template prints all of them as it prints the first:
    some leave out or change what the assistant said before."""
    try:
        text = _render(tokenizer, _messages(_QUESTION, _REPLY, _NEXT))
        _, rest = _around(text, _QUESTION)
        opens, rest = _around(rest, _REPLY)
        ends, _ = _around(rest, _NEXT)
        longer = [f" \n{text} \n" for text in (_QUESTION, _REPLY, _NEXT, _REPLY, _QUESTION)]
        printed = _render(tokenizer, _messages(*longer)).removeprefix(tokenizer.bos_token)
    except ModelError:
        return turns
    message, answer, second, again, last = longer
    candidate = replace(turns, between=(opens, ends))
    ours = render(Prompt(last, "", ((message, answer), (second, again))), candidate)
    return candidate if ours == printed else turns


def _messages(*texts: str) -> list[dict[str, str]]:
    """A conversation that a user begins."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def template_from_files(directory: Path) -> str | None:
    """The chat template of a directory whose tokenizer has none: in `chat_template.json`, where processors of
    transformers before 4.50 saved it.

    Raises:
        ModelError: that file cannot be read, or the template is in `processor_config.json`.
    """
    legacy = directory / _LEGACY_FILE
    if legacy.is_file():
        return _default_template(_template_field(legacy))
    processor = directory / _PROCESSOR_FILE
    if processor.is_file() and (template := _template_field(processor, required=False)):
        raise ModelError(
            f"{processor} contains the chat template, where transformers no longer reads it; save its text "
            f"({len(str(template)):,} characters) as {directory / 'chat_template.jinja'}"
        )
    return None


def _template_field(path: Path, *, required: bool = True) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    template = content.get("chat_template") if isinstance(content, dict) else None
    if required and not template:
        raise ModelError(f"{path} has no text under `chat_template`; {_NEXT_STEP}")
    return template


def _default_template(template: Any) -> str:
    """A tokenizer has one template, or several with names, of which `default` is used."""
    if isinstance(template, list):
        template = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
    if isinstance(template, Mapping):
        names = ", ".join(sorted(map(str, template))) or "none"
        template = template.get("default")
        if template is None:
            raise ModelError(
                f"of the chat templates of the tokenizer none is called `default` (found: {names}); {_NEXT_STEP}"
            )
    if not isinstance(template, str):
        raise ModelError(f"the chat template is of type {type(template).__name__}, not text; {_NEXT_STEP}")
    return template


def _check_source(template: str) -> None:
    """Refuses what a single step could fill the memory with, before Jinja computes constants while compiling."""
    if len(template) > MAX_TEMPLATE_CHARS:
        raise ModelError(
            f"the chat template has {len(template):,} characters; at most {MAX_TEMPLATE_CHARS:,} are allowed. "
            f"To continue, {_NEXT_STEP}"
        )
    try:
        tokens = list(jinja2.Environment().lex(template))
    except Exception as error:
        raise _fails(error) from error
    for line, kind, value in tokens:
        if kind == "operator" and value in ("*", "**"):
            raise ModelError(f"line {line} of the chat template multiplies, which is not allowed; {_NEXT_STEP}")
        if kind in ("integer", "float", "string") and re.search(r"\d{6}", value.replace("_", "")):
            raise ModelError(
                f"line {line} of the chat template has a number of more than five digits, which is not allowed; "
                f"{_NEXT_STEP}"
            )


def _render(tokenizer: ChatTokenizer, conversation: list[dict[str, str]], *, prompt: bool = True) -> str:
    try:
        with _step_limit():
            text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template can raise anything
        raise _fails(error) from error
    if not isinstance(text, str) or len(text) > MAX_RENDERED_CHARS:
        raise _fails(f"it made more than {MAX_RENDERED_CHARS:,} characters of a short question")
    return text


def _fails(reason: object) -> ModelError:
    return ModelError(f"the chat template cannot be rendered: {str(reason)[:300]}; {_NEXT_STEP}")


def _around(text: str, content: str) -> tuple[str, str]:
    """What was printed before and after `content`, which must be there once and unchanged."""
    before, found, after = text.partition(content)
    if not found or content in after:
        raise ModelError(f"the chat template changes the text of a message, or does not print it once; {_NEXT_STEP}")
    return before, after


def _first_token(text: str, tokenizer: ChatTokenizer) -> str:
    text = text.lstrip()
    names = [token.content for token in tokenizer.added_tokens_decoder.values()]
    matching: list[str] = [name for name in names if name and text.startswith(name)]
    if not matching:
        raise ModelError(
            f"the chat template ends an answer with {text[:40]!r}, which is not a token of the tokenizer, so that a "
            f"model could not be trained to end its turn; {_NEXT_STEP}"
        )
    return max(matching, key=len)


class _LimitError(Exception):
    """A rendering took more than it may."""


@contextmanager
def _step_limit() -> Iterator[None]:
    """Stops a template after `MAX_STEPS` lines, or once a text or list of its own is too long.

    Steps are counted, not seconds, so that the result is the same on every machine.
    """
    steps = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise _LimitError(f"it takes more than {MAX_STEPS:,} steps")
        for value in list(frame.f_locals.values()):
            # Attributes of a Jinja namespace are kept under its private name.
            for item in (value, *getattr(value, "_Namespace__attrs", {}).values()):
                if isinstance(item, str | list | tuple | dict) and len(item) > MAX_RENDERED_CHARS:
                    raise _LimitError(f"it made more than {MAX_RENDERED_CHARS:,} characters of a short question")
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return on_line if frame.f_code.co_filename == "<template>" else None  # the name that Jinja compiles under

    previous = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(previous)
