"""The text that a model reads, and the part of it that is supervised.

One builder per task, used by training and by every evaluation, so that the two cannot drift apart.
The question block and the answer cue are those of lm-evaluation-harness' task `kormedmcqa` 3.0 (question, `A. …` to
`E. …`, `정답：` with its full-width colon), so that stage 02 trains on the form that the published protocol uses.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lorachain.letter_uses import remap
from lorachain.option_references import depends_on_order
from lorachain.records import LETTERS, ExamQuestion, Instruction, PlainText, Term

PROMPT_VERSION = 1
"""Recorded in every result and in what a stage was made from. Increased with any change to the wording of what is
trained or scored (here, and in `dictionary_forms`): results of two versions do not compare, and stages become stale."""
ANSWER_CUE = "정답："
REASONING_CUE = "풀이："
REASONING_INSTRUCTION = (
    f'"{REASONING_CUE}" 다음에 풀이를 한국어로 쓰고, 마지막 줄에 "{ANSWER_CUE}" 다음에 정답의 글자와 보기를 쓰시오.'
)
"""For servers with a chat interface, where the cue cannot open the answer."""
JSON_INSTRUCTION = (
    "각 문제에서 가장 적절한 답을 하나만 고르시오.\n"
    "정답은 A, B, C, D, E 중 하나입니다.\n"
    "출력은 반드시 JSON 객체 1개만 반환하고, JSON 밖의 다른 텍스트(설명/마크다운 등)는 쓰지 마세요.\n"
    '출력 형식: {"정답": "A"}'
)
"""Of the benchmark authors' zero-shot protocol (github.com/baeseongsu/kormedmcqa_v)."""
AnswerStyle = Literal["letters", "options"]
"""What an answer names first. `letters`: ` B. text`, `options`: ` text (B)`. A 270M model trained on the letter first
stays at chance, trained on the text first it learns in one epoch; larger models answer by letter, which is what the
published protocols read."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """`user` is the user's message; `cue` opens the answer and is never supervised."""

    user: str
    cue: str
    earlier: tuple[tuple[str, str], ...] = ()
    """The messages before it in a conversation, each with its answer. None of them is supervised."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and the completion that is supervised together with the end token. Plain text has no prompt."""

    prompt: Prompt | None
    completion: str
    form: str = ""
    """Where one record gives several examples, which one this is: a dictionary direction, `reasoned` or `direct`."""


@dataclass(frozen=True, slots=True)
class ChatTurns:
    """What a chat template prints around the user's message, without BOS."""

    before: str
    after: str
    """From the end of the message to where the answer begins."""
    end: str
    """The token that ends an answer."""
    strips_start: bool = False
    strips_end: bool = False
    """Whether the template strips blanks from the message."""
    between: tuple[str, str] | None = None
    """In a conversation: what is between a message and its answer, and between that and the next message. None: the
    template prints earlier turns in another way, so that only the first exchange of a conversation is used."""


class Piece(NamedTuple):
    """A part of a rendered prompt."""

    text: str
    of_template: bool
    """Whether the chat template or the cue says it, not a message: only these name special tokens."""


def pieces(prompt: Prompt, turns: ChatTurns | None) -> list[Piece]:
    """The parts of the prompt in their order.

    Raises:
        ValueError: it has earlier turns, which the template cannot print.
    """
    if turns is None:
        earlier = [f"{message}\n{answer}\n" for message, answer in prompt.earlier]
        return [Piece("".join([*earlier, f"{prompt.user}\n{prompt.cue}"]), False)]
    parts = [Piece(turns.before, True)]
    for message, answer in prompt.earlier:
        if turns.between is None:
            raise ValueError("the chat template cannot print a conversation")
        opens, ends = turns.between
        parts += [Piece(_stripped(message, turns), False), Piece(opens, True)]
        parts += [Piece(_stripped(answer, turns), False), Piece(ends, True)]
    return [*parts, Piece(_stripped(prompt.user, turns), False), Piece(f"{turns.after}{prompt.cue}", True)]


def render(prompt: Prompt, turns: ChatTurns | None) -> str:
    """The prompt as text without BOS, which `TokenEncoder` adds once.

    Within the chat template's turns if the tokenizer has a template, otherwise plain text with the cue on its own line.

    Raises:
        ValueError: as `pieces`.
    """
    return "".join(piece.text for piece in pieces(prompt, turns))


def _stripped(message: str, turns: ChatTurns) -> str:
    message = message.lstrip() if turns.strips_start else message
    return message.rstrip() if turns.strips_end else message


def plain_text_example(document: PlainText) -> Example:
    """The document's text, all of it supervised."""
    return Example(None, document.text)


def instruction_examples(instruction: Instruction, turns: ChatTurns | None) -> list[Example]:
    """Every answer of the conversation, supervised, each after the turns before it; only the first where the chat
    template cannot continue a conversation. There is no cue: an answer begins where the model's turn does."""
    exchanges = instruction.exchanges
    if turns is not None and turns.between is None:
        exchanges = exchanges[:1]
    return [
        Example(Prompt(message, "", exchanges[:number]), answer, "instruct")
        for number, (message, answer) in enumerate(exchanges)
    ]


# ---- dictionary -----------------------------------------------------------------------------------------------------

Direction = Literal["term->definition", "term->english", "definition->term", "english->term"]
_CUES = {"term": "용어:", "definition": "뜻:", "english": "영어:"}


def directions(entry: Term) -> list[Direction]:
    """The directions that this entry allows: from the term to its description, and back to the term."""
    allowed: list[Direction] = []
    if entry.definition:
        allowed += ["term->definition", "definition->term"]
    if entry.english:
        allowed += ["term->english", "english->term"]
    return allowed


def dictionary_example(entry: Term, direction: Direction) -> Example:
    """One entry in one direction, which is the example's form. The completion starts with a space, as the cue ends
    with a colon.

    Raises:
        ValueError: the entry does not allow the direction.
    """
    source, target = direction.split("->")
    values = {"term": entry.term, "definition": entry.definition, "english": entry.english}
    question, answer = values[source], values[target]
    if question is None or answer is None:
        raise ValueError(f"entry {entry.term!r} does not allow the direction {direction}")
    return Example(Prompt(f"{_CUES[source]} {question}", _CUES[target]), f" {answer}", direction)


# ---- exam -----------------------------------------------------------------------------------------------------------


def question_block(question: ExamQuestion) -> str:
    """The question with its options, as lm-evaluation-harness' `kormedmcqa` 3.0 writes it."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True))
    return f"{question.question.strip()}\n{options}"


def answer_prompt(question: ExamQuestion) -> Prompt:
    """Asks for the answer alone."""
    return Prompt(question_block(question), ANSWER_CUE)


def reasoning_prompt(question: ExamQuestion) -> Prompt:
    """Asks for reasoning and then the answer; only the cue differs from the direct prompt."""
    return Prompt(question_block(question), REASONING_CUE)


def json_prompt(question: ExamQuestion) -> Prompt:
    """Asks for a JSON object with the letter, in the user message of the benchmark's authors; there is no cue."""
    options = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, question.options, strict=True))
    return Prompt(f"질문: {question.question}\n\n{options}\n{JSON_INSTRUCTION}", "")


def json_example(question: ExamQuestion) -> Example:
    """The answer as the protocol `kormedeval` reads it."""
    return Example(json_prompt(question), f'{{"정답": "{question.answer_letter}"}}', "json")


def answer_text(question: ExamQuestion, style: AnswerStyle) -> str:
    """The right answer as it is trained, with the space that follows a cue."""
    if style == "letters":
        return f" {question.answer_letter}. {question.answer_text}"
    return f" {question.answer_text} ({question.answer_letter})"


def exam_examples(question: ExamQuestion, style: AnswerStyle) -> list[Example]:
    """The direct answer, and before it, for a question with reasoning, the reasoning followed by the answer.

    Every question trains the direct answer because validation and the published protocols ask for it: the score of a
    model that had only seen reasoning would say nothing about what it learned.
    """
    answer = answer_text(question, style)
    direct = Example(answer_prompt(question), answer, "direct")
    if not question.reasoning:
        return [direct]
    completion = f" {question.reasoning.strip()}\n{ANSWER_CUE}{answer}"
    return [Example(reasoning_prompt(question), completion, "reasoned"), direct]


# ---- order of the options -------------------------------------------------------------------------------------------


def remap_letters(text: str, letter_for: dict[str, str]) -> str:
    """Replaces the letters in `text` that certainly refer to an option.

    Letters that are part of a name stay (vitamin B, B형간염, E. coli), and so do those that could be either.
    """
    return remap(text, letter_for)


def options_depend_on_order(question: ExamQuestion) -> bool:
    """Whether the question must keep its order: an option refers to others or to the list ("모두 옳다", "①, ③"), or
    the reasoning refers to an option in a way that cannot be followed with certainty ("정답은 3번")."""
    return depends_on_order(question)


def shuffled(question: ExamQuestion, rng: random.Random) -> ExamQuestion:
    """The question with its options in a random order, followed by the answer and by the letters in the reasoning; or
    the question itself if it must keep its order.

    Letter bias moves exam scores by 13-75 points under reordering (Zheng et al. 2023, arXiv 2309.03882).
    """
    if options_depend_on_order(question):
        return question
    order = rng.sample(range(5), 5)
    moved = permuted(question, order)
    inverse = [order.index(i) for i in range(5)]
    # A reordering that cannot be undone has changed what the reasoning says.
    return moved if permuted(moved, inverse) == question else question


def permuted(question: ExamQuestion, order: list[int]) -> ExamQuestion:
    """The question with `options[i] = old options[order[i]]`, and in the reasoning the letters that certainly refer to
    an option remapped."""
    reasoning = question.reasoning
    if reasoning:
        letter_for = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
        reasoning = remap(reasoning, letter_for, options=question.options, stem=question.question)
    return question.reordered(order, reasoning)


def rotations(question: ExamQuestion) -> Iterator[ExamQuestion]:
    """The five cyclic orders of the options, the original first."""
    for shift in range(5):
        yield permuted(question, [(i + shift) % 5 for i in range(5)])
