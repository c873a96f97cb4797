"""The text that a model reads, and the span of it that is supervised.

One builder a task, used by training and by every evaluation alike, so that the two cannot drift apart.
The question block and the answer cue are those of lm-evaluation-harness' task `kormedmcqa` 3.0 (question, `A. …` to
`E. …`, `정답：` with its full-width colon), so that what stage 02 teaches is what the field's protocol asks.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from lorachain.records import LETTERS, ExamQuestion, PlainText, Term

ANSWER_CUE = "정답："
REASONING_CUE = "풀이："
AnswerStyle = Literal["letters", "options"]
"""What an answer names first. `letters`: ` B. text`, `options`: ` text (B)`. A 270M model trained on
the letter first stays at chance, on the text first it learns in one epoch; larger models answer by letter, which is
what the published protocols read."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`user` is what is asked; `cue` opens the answer and is never supervised."""

    user: str
    cue: str


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and the completion that is supervised together with the end token. Plain text has no prompt."""

    prompt: Prompt | None
    completion: str


class ChatTokenizer(Protocol):
    """The part of a tokenizer that `render` needs."""

    bos_token: str
    chat_template: str | None

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: object) -> object: ...


def render(prompt: Prompt, tokenizer: ChatTokenizer) -> str:
    """The prompt as text without BOS (the token room adds it, once).

    Through the chat template where the tokenizer has one, otherwise the plain text, cue on its own line.
    """
    if not tokenizer.chat_template:
        return f"{prompt.user}\n{prompt.cue}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt.user}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text.removeprefix(tokenizer.bos_token) + prompt.cue


def plain_text_example(document: PlainText) -> Example:
    return Example(None, document.text)


# ---- dictionary -----------------------------------------------------------------------------------------------------

Direction = Literal["term->definition", "term->english", "definition->term", "english->term"]
_CUES = {"term": "용어:", "definition": "뜻:", "english": "영어:"}


def directions(entry: Term) -> list[Direction]:
    """The ways in which this entry can be asked: towards its description, and back to the term."""
    ways: list[Direction] = []
    if entry.definition:
        ways += ["term->definition", "definition->term"]
    if entry.english:
        ways += ["term->english", "english->term"]
    return ways


def dictionary_example(entry: Term, direction: Direction) -> Example:
    """One entry asked in one direction; the completion starts with a space, as the cue ends with a colon."""
    given, wanted = direction.split("->")
    values = {"term": entry.term, "definition": entry.definition, "english": entry.english}
    question, answer = values[given], values[wanted]
    if question is None or answer is None:
        raise ValueError(f"entry {entry.term!r} cannot be asked {direction}")
    return Example(Prompt(f"{_CUES[given]} {question}", _CUES[wanted]), f" {answer}")


# ---- exam -----------------------------------------------------------------------------------------------------------


def question_block(question: ExamQuestion) -> str:
    """The question with its options shown, as lm-evaluation-harness' `kormedmcqa` 3.0 writes it."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True))
    return f"{question.question.strip()}\n{options}"


def answer_prompt(question: ExamQuestion) -> Prompt:
    return Prompt(question_block(question), ANSWER_CUE)


def reasoning_prompt(question: ExamQuestion) -> Prompt:
    """Told apart from the direct answer by its cue."""
    return Prompt(question_block(question), REASONING_CUE)


def answer_text(question: ExamQuestion, style: AnswerStyle) -> str:
    if style == "letters":
        return f" {question.answer_letter}. {question.answer_text}"
    return f" {question.answer_text} ({question.answer_letter})"


def exam_examples(question: ExamQuestion, style: AnswerStyle) -> list[Example]:
    """The answer by itself; and where the question has reasoning, first reasoning then answer. The cue tells which.

    The direct answer is taught of every question because validation and the published protocols ask for it; a model
    that only ever saw reasoning could not be told from one that learnt nothing.
    """
    answer = answer_text(question, style)
    direct = Example(answer_prompt(question), answer)
    if not question.reasoning:
        return [direct]
    reasoned = Example(reasoning_prompt(question), f" {question.reasoning.strip()}\n{ANSWER_CUE}{answer}")
    return [reasoned, direct]


# A letter in the reasoning refers to an option when it stands alone in the ways Korean explanations write it:
# "(B)", "정답은 B", "보기 B", "B번", "B. ", "선택지 B". "비타민 B", "B형간염" and "정답은 DNA" must stay as they are.
_LETTER_REFERENCE = re.compile(
    r"(?<=\()(?P<bracket>[A-E])(?=\))"
    r"|(?:(?<=정답은 )|(?<=정답: )|(?<=정답：)|(?<=답은 )|(?<=보기 )|(?<=선택지 )|(?<=옵션 ))"
    r"(?P<named>[A-E])(?![A-Za-z0-9-]|[가-힣]*[형군])"
    r"|(?<![A-Za-z0-9가-힣])(?P<numbered>[A-E])(?=번)"
    r"|(?:(?<=^)|(?<=\n))(?P<listed>[A-E])(?=[.)] )"
)
_REFERS_TO_OPTIONS = re.compile(
    r"모두|위의|이상의|전부|해당\s*(사항)?\s*없음|없다$|다\s*맞|①|②|③|④|⑤|\b[A-E]\s*[,와과및]\s*[A-E]\b|[㉠-㉭ㄱ-ㅎ]\s*,"
)
# Numbers are never remapped ("22번 염색체" is no option): a question whose reasoning names one as an option keeps its
# order.
_OPTION_BY_NUMBER = re.compile(r"(?:정답은|답은|정답\s*[:：]|보기|선택지|옵션)\s*\(?[1-5①-⑤]")


def remap_letters(text: str, letter_for: dict[str, str]) -> str:
    """Replaces each reference to an option's letter; letters that name other things stay (vitamin B, B형간염)."""
    return _LETTER_REFERENCE.sub(lambda match: letter_for[match.group()], text)


def options_depend_on_order(question: ExamQuestion) -> bool:
    """Whether an option refers to others or to the list as a whole ("모두 옳다", "①, ③"), or the reasoning to an
    option by its number ("정답은 3번"): left in order, then."""
    if _OPTION_BY_NUMBER.search(question.reasoning or ""):
        return True
    return any(_REFERS_TO_OPTIONS.search(option) for option in question.options)


def shuffled(question: ExamQuestion, rng: random.Random) -> ExamQuestion:
    """The question with its options in a new order: the answer and the letters in the reasoning follow.

    Letter bias moves exam scores by 13-75 points under reordering (Zheng et al. 2023, arXiv 2309.03882).
    """
    if options_depend_on_order(question):
        return question
    return permuted(question, rng.sample(range(5), 5))


def permuted(question: ExamQuestion, order: list[int]) -> ExamQuestion:
    """The question with `options[i] = old options[order[i]]`, letters in the reasoning remapped."""
    reasoning = question.reasoning
    if reasoning:
        letter_for = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
        reasoning = remap_letters(reasoning, letter_for)
    return question.reordered(order, reasoning)


def rotations(question: ExamQuestion) -> Iterator[ExamQuestion]:
    """The five cyclic orders of the options, the original first."""
    for shift in range(5):
        yield permuted(question, [(i + shift) % 5 for i in range(5)])
