"""Worked examples with reasoning, put before each question of their subject."""

from collections.abc import Callable, Sequence
from typing import Literal

from lorachain.prompts import AnswerStyle, question_block
from lorachain.reasoning.requests import examples_text
from lorachain.records import ExamQuestion


class WorkedExamples:
    """The examples of each subject, as many as fit; a subject without any takes those of the others."""

    def __init__(
        self,
        fewshot: Sequence[ExamQuestion],
        *,
        shots: int | Literal["auto"],
        style: AnswerStyle,
        max_tokens: int,
        count_tokens: Callable[[str], int],
    ) -> None:
        """
        Args:
            fewshot: questions with reasoning.
            shots: at most so many; `auto`: no limit but `max_tokens`.
            max_tokens: of a prompt, the question included.
        """
        self._fewshot = fewshot
        self._shots = len(fewshot) if shots == "auto" else shots
        self._style = style
        self._max_tokens = max_tokens
        self._count_tokens = count_tokens
        self._by_subject: dict[str, list[tuple[str, int]]] = {}

    def text(self, question: ExamQuestion) -> str:
        """The examples before a question. All questions of a subject begin with the same examples, of which only a long
        question leaves out the last."""
        examples = self._of_subject(question.subject)
        room = self._max_tokens - self._count_tokens(question_block(question))
        taken = []
        for text, tokens in examples:
            room -= tokens
            if room < 0:
                break
            taken.append(text)
        return "".join(taken)

    def _of_subject(self, subject: str) -> list[tuple[str, int]]:
        """Texts of the examples with their numbers of tokens."""
        if subject not in self._by_subject:
            own = [example for example in self._fewshot if example.subject == subject]
            texts = [examples_text([example], self._style) for example in (own or self._fewshot)[: self._shots]]
            self._by_subject[subject] = [(text, self._count_tokens(text)) for text in texts]
        return self._by_subject[subject]
