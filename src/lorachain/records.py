"""What sources become: one type for each kind of record, which knows nothing of files, prompts or models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

LETTERS = ("A", "B", "C", "D", "E")


@dataclass(frozen=True, slots=True)
class PlainText:
    """One document of running text."""

    text: str
    source: str
    """Where it came from, as `file:line` or `hub-id:row`: for messages, never trained on."""


@dataclass(frozen=True, slots=True)
class Term:
    """One dictionary entry. At least one of `definition` and `english` is present."""

    term: str
    definition: str | None = None
    english: str | None = None
    category: str | None = None
    """A group such as the first letters of a classification code: distractors are drawn from the same group."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A general instruction and its answer; of a conversation, the first message."""

    prompt: str
    completion: str
    later: tuple[tuple[str, str], ...] = ()
    """The further messages of the conversation, each with its answer."""

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """Every message with its answer."""
        return ((self.prompt, self.completion), *self.later)

    @property
    def text(self) -> str:
        """All of it, for what looks at its content."""
        return "\n".join(text for exchange in self.exchanges for text in exchange)


@dataclass(frozen=True, slots=True)
class ExamQuestion:
    """One five-option question in KorMedMCQA's published schema (Kweon et al. 2024, arXiv 2403.01469)."""

    id: str
    """Stable across runs, unique within an exam: `subject-year-period-q_number`."""
    subject: str
    """The profession: the configuration or directory that the question was read from, or else the row's subject."""
    question: str
    options: tuple[str, str, str, str, str]
    answer: int
    """Index of the right option, 0 to 4."""
    reasoning: str | None = None
    exam: str = ""
    """Short name of the source that the question was read from: scores of two exams are reported separately."""

    @property
    def answer_letter(self) -> str:
        return LETTERS[self.answer]

    @property
    def answer_text(self) -> str:
        return self.options[self.answer]

    def reordered(self, order: Sequence[int], reasoning: str | None) -> "ExamQuestion":
        """The same question with `options[i] = self.options[order[i]]`; the answer follows its text."""
        a, b, c, d, e = (self.options[i] for i in order)
        return replace(self, options=(a, b, c, d, e), answer=list(order).index(self.answer), reasoning=reasoning)
