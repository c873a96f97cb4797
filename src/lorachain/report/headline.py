"""The headline of a finished chain as lines for the terminal, and what to do next."""

from collections.abc import Iterator, Sequence

from lorachain.artifacts.validation import Proportion
from lorachain.chain.headline import Headline, ReasoningExample
from lorachain.records import LETTERS
from lorachain.redaction import printable
from lorachain.report.tables import accuracy_text

_LONGEST_TEXT = 240


def headline_lines(headline: Headline) -> list[str]:
    """Base and chain on the same held-out questions, the baselines, and one question with what the model wrote."""
    after, comparison = headline.after, headline.comparison
    exam = " and ".join(headline.exams)
    lines = [
        f"held-out questions ({exam}, {after.split}), {after.protocol}/{after.protocol_version}:",
        f"  base       {accuracy_text(headline.before)}",
        f"  the chain  {accuracy_text(after)}",
        f"  {comparison.gained} questions gained, {comparison.lost} lost: {comparison.summary}",
        *(f"  without a model, {name}: {_share(score)}" for name, score in headline.baselines.items()),
    ]
    if headline.example is not None:
        lines += ["", *_example_lines(headline.example)]
        if after.protocol == "options":
            lines.append("  (answers are read by the option's text: a small model does not learn the letters)")
    return [printable(line) for line in lines]


def next_lines(commands: Sequence[tuple[str, str]]) -> Iterator[str]:
    """`command  # what it does`, aligned."""
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        yield f"  {command.ljust(width)}  # {purpose}"


def _share(score: Proportion) -> str:
    return f"{100 * score.accuracy:.1f} %"


def _example_lines(example: ReasoningExample) -> Iterator[str]:
    question = example.question
    yield "one of them, with the reasoning that the model writes:"
    yield f"  {_one_line(question.question)}"
    yield "  " + "  ".join(f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True))
    yield f"  before stage 02: {_one_line(example.before) or '(nothing)'}"
    yield f"  after:           {_one_line(example.after) or '(nothing)'}"
    yield f"  right answer:    {question.answer_text} ({question.answer_letter})"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"
