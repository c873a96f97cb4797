"""Answers as they are generated: under each other, or in columns where several models are asked at a terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import exp
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape as escape_markup
from rich.table import Table
from rich.text import Text

from lorachain.records import LETTERS, ExamQuestion
from lorachain.redaction import printable
from lorachain.report.tables import escape

if TYPE_CHECKING:
    from lorachain.ask.answers import Answered, View

_NARROWEST = 28
"""Columns of a terminal that each model needs to be shown beside the others."""


@contextmanager
def answers_view(console: Console, names: Sequence[str]) -> Iterator["View"]:
    """Columns at a terminal that is wide enough for several models, otherwise one block after the other."""
    if console.is_terminal and 1 < len(names) <= console.width // _NARROWEST:
        table = Columns(names)
        with Live(table.render(), console=console, refresh_per_second=8, vertical_overflow="visible") as live:
            table.live = live
            yield table
    else:
        yield Blocks(console)


class Blocks:
    """Each model's answers below its name; what is there already is never printed again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: tuple[str, str, str] | None = None
        """Model, label and text of the answer in progress."""

    def loading(self, name: str) -> None:
        self._printed = None
        self._console.print(Text(f"{printable(name)}:", style="bold"), soft_wrap=True)

    def text(self, name: str, label: str, text: str) -> None:
        shown = answer_lines(text)
        if self._printed is None or self._printed[:2] != (name, label):
            if self._printed is not None:
                self._console.print()
            self._printed = (name, label, "")
            self._write(f"  {label} " if label else "  ")
        before = self._printed[2]
        if shown.startswith(before):
            self._write(shown[len(before) :])
            self._printed = (name, label, shown)

    def answered(self, answered: "Answered") -> None:
        if self._printed is not None:
            self._console.print()
        self._console.print(Text(f"  {timing(answered)}", style="dim"), soft_wrap=True)

    def _write(self, text: str) -> None:
        self._console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()


class Columns:
    """One column per model."""

    live: Live | None = None

    def __init__(self, names: Sequence[str]) -> None:
        self._answers: dict[str, dict[str, str]] = {name: {} for name in names}
        self._notes = dict.fromkeys(names, "")

    def loading(self, name: str) -> None:
        self._notes[name] = "loading …"
        self._refresh()

    def text(self, name: str, label: str, text: str) -> None:
        self._notes[name] = ""
        self._answers[name][label] = text
        self._refresh()

    def answered(self, answered: "Answered") -> None:
        self._notes[answered.name] = timing(answered)
        self._refresh()

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self.render())

    def render(self) -> Table:
        table = Table(*map(escape, self._answers), expand=True)
        answers = (
            "\n".join(f"{label} {text.strip()}" for label, text in of_model.items())
            for of_model in self._answers.values()
        )
        table.add_row(*(escape_markup("\n".join(map(printable, text.split("\n")))) for text in answers))
        table.add_row(*(f"[dim]{escape(note)}[/]" for note in self._notes.values()))
        return table


def answer_lines(text: str) -> str:
    """An answer for the terminal: its lines indented, without control characters."""
    return "\n  ".join(printable(line) for line in text.split("\n"))


def timing(answered: "Answered") -> str:
    """How long loading and answering took."""
    cut = "" if answered.complete else ", cut at the limit (--max-new-tokens)"
    return (
        f"loaded in {answered.load_seconds:.1f} s, first token after {answered.first_seconds:.2f} s, {answered.tokens} "
        f"tokens in {answered.seconds:.1f} s ({answered.tokens_per_second:,.1f} tokens/s){cut}"
    )


def question_text(question: ExamQuestion, split: str) -> str:
    """An exam question for the terminal, with where it is from."""
    lines = [f"{question.id} ({question.exam}, {question.subject}, {split})", *question.question.strip().split("\n")]
    return "\n  ".join(printable(line) for line in lines)


def options_table(question: ExamQuestion, answered: "Sequence[Answered]") -> Table:
    """Per option what each model gives it: the probability of its letter among the five, and the log-probability of its
    text (nats, summed over its tokens). `*` marks each model's choice."""
    table = Table("", "option", "right answer", title="letter: its probability; text: its log-probability")
    for model in answered:
        table.add_column(f"{escape(model.name)}: letter", justify="right")
        table.add_column("text", justify="right")
    for number, option in enumerate(question.options):
        cells = [LETTERS[number], escape(option), "<==" if number == question.answer else ""]
        for model in answered:
            cells += option_scores(model, number)
        table.add_row(*cells)
    return table


def option_scores(model: "Answered", number: int) -> list[str]:
    """What a model gives an option: its letter's probability, its text's log-probability; `*` marks its choices."""
    score = model.score
    if score is None or score.option_logprobs is None:
        return ["–", "–"]
    letter = f"{exp(score.letter_logprobs[number]):.1%}{' *' if score.chosen_letter == number else ''}"
    return [letter, f"{score.option_logprobs[number]:.2f}{' *' if score.chosen_option == number else ''}"]
