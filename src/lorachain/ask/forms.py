"""The prompts of a question: in the forms that the chain trains, as a chat message, or as plain text."""

from dataclasses import dataclass
from typing import Literal, get_args

from lorachain.errors import ConfigError
from lorachain.prompts import ANSWER_CUE, Direction, Prompt, answer_prompt, dictionary_example, reasoning_prompt
from lorachain.records import ExamQuestion, Term
from lorachain.tokens import TokenEncoder

Form = Literal["dictionary", "exam", "chat", "plain"]
FORMS: tuple[Form, ...] = get_args(Form)
_ASKED: tuple[Direction, ...] = ("term->definition", "term->english")
_TOKENS: dict[Form, int] = {"dictionary": 96, "exam": 64, "chat": 512, "plain": 128}
_EXPLANATION_TOKENS = 512


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """One prompt, and where its answer ends."""

    label: str
    """The cue that opens the answer; empty where the form has none."""
    ids: list[int]
    """With BOS."""
    one_line: bool
    """Whether the answer ends with its first line."""
    max_new_tokens: int


def check_form(name: str | None) -> Form | None:
    """The form of that name; None is the model's own (`prompts_of_text`).

    Raises:
        ConfigError: there is none.
    """
    form = next((form for form in FORMS if form == name), None)
    if name is not None and form is None:
        raise ConfigError(f"--as is {name!r}; allowed: {', '.join(FORMS)}")
    return form


def prompts_of_text(text: str, form: Form | None, encoder: TokenEncoder) -> list[AskedPrompt]:
    """The prompts of a question as it was typed.

    Args:
        form: `dictionary`: the text is a term, and its definition and its English name are asked, as stage 01 trains
            them. `exam`: a question with its options, as stage 02 trains it. `chat`: a message in the chat template.
            `plain`: a text to continue. None: `chat` where the tokenizer has a template, else `plain`.

    Raises:
        ConfigError: `chat`, and the tokenizer has no template.
    """
    form = form or ("chat" if encoder.turns is not None else "plain")
    tokens = _TOKENS[form]
    if form == "plain":
        return [AskedPrompt("", [encoder.bos_id, *encoder.text_ids(text)], False, tokens)]
    if form == "chat":
        if encoder.turns is None:
            raise ConfigError("the tokenizer has no chat template; ask with --as plain, --as dictionary or --as exam")
        return [AskedPrompt("", encoder.prompt_ids(Prompt(text, "")), False, tokens)]
    if form == "exam":
        return [_asked(Prompt(text.strip(), ANSWER_CUE), encoder, tokens)]
    entry = Term(text.strip(), definition="?", english="?")
    examples = [dictionary_example(entry, direction) for direction in _ASKED]
    return [_asked(example.prompt, encoder, tokens) for example in examples if example.prompt is not None]


def prompts_of_question(question: ExamQuestion, encoder: TokenEncoder, *, explain: bool) -> list[AskedPrompt]:
    """The direct answer to an exam question, and with `explain` an answer after reasoning."""
    prompts = [_asked(answer_prompt(question), encoder, _TOKENS["exam"])]
    if explain:
        prompt = reasoning_prompt(question)
        prompts.append(AskedPrompt(prompt.cue, encoder.prompt_ids(prompt), False, _EXPLANATION_TOKENS))
    return prompts


def _asked(prompt: Prompt, encoder: TokenEncoder, tokens: int) -> AskedPrompt:
    return AskedPrompt(prompt.cue, encoder.prompt_ids(prompt), True, tokens)
