"""What a writer reads: worked examples with reasoning, the question, and the cue that opens the reasoning."""

from collections.abc import Sequence

from lorachain.evaluation.answer_line import choice_reader
from lorachain.evaluation.reasoning_text import reasoning_of
from lorachain.inference.engines.base import Message, TextRequest
from lorachain.prompts import (
    ANSWER_CUE,
    REASONING_CUE,
    REASONING_INSTRUCTION,
    AnswerStyle,
    ChatTurns,
    Prompt,
    answer_text,
    question_block,
    render,
)
from lorachain.reasoning.sample import Sample, Written
from lorachain.records import ExamQuestion

HINT = "(정답은 {answer}이다. 이 정답을 미리 알고 있었다는 언급 없이 풀이를 쓰시오.)"


def examples_text(examples: Sequence[ExamQuestion], style: AnswerStyle) -> str:
    """Worked examples with their reasoning and answer, each followed by an empty line."""
    return "".join(
        f"{question_block(shot)}\n{REASONING_CUE} {(shot.reasoning or '').strip()}\n"
        f"{ANSWER_CUE}{answer_text(shot, style)}\n\n"
        for shot in examples
    )


def writing_prompt(question: ExamQuestion, examples: str, *, hinted: bool = False) -> Prompt:
    """The prompt for reasoning after `examples` (see `examples_text`)."""
    hint = f"\n{HINT.format(answer=question.answer_text)}" if hinted else ""
    return Prompt(f"{examples}{question_block(question)}{hint}", REASONING_CUE)


def writing_request(
    question: ExamQuestion, examples: str, turns: ChatTurns | None, *, seed: int, hinted: bool = False
) -> TextRequest:
    """The prompt as an engine takes it. `turns`: those of the writer's chat template, None for plain text."""
    prompt = writing_prompt(question, examples, hinted=hinted)
    message = Message("user", f"{prompt.user}\n{REASONING_INSTRUCTION}")
    return TextRequest(render(prompt, turns), (message,), seed)


def split_sample(written: Written, shown: ExamQuestion, style: AnswerStyle) -> Sample:
    """The reasoning before the answer line, and the option that the answer names.

    Args:
        shown: the question with its options in the sample's order.
        style: how the model is trained to answer: where that is by an option's text, the text decides, not a letter
            behind it, as where the model is scored.
    """
    text = written.text.strip().removeprefix(REASONING_CUE).strip()
    return Sample(written, reasoning_of(text), choice_reader(style)(text, shown.options))
