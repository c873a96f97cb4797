"""`reasoning`: the model explains, then answers; once greedily, or several times with a vote."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from lorachain.artifacts.schema import Record
from lorachain.errors import ConfigError
from lorachain.evaluation.answer_line import answer_line_complete, choice_reader
from lorachain.evaluation.explained import direct_choices, tax_of_explaining
from lorachain.evaluation.protocols.base import Option, QuestionResult
from lorachain.evaluation.protocols.generated import WrittenDetail, written_report, written_row
from lorachain.evaluation.reasoning_text import hangul_share, names_another, reasoning_of
from lorachain.inference.engines.base import Completion, EngineIdentity, Message, Sampling, TextEngine, TextRequest
from lorachain.inference.engines.local import LocalEngine
from lorachain.prompts import REASONING_INSTRUCTION, AnswerStyle, ChatTurns, reasoning_prompt, render
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.version import __version__

_IN_MEMORY = EngineIdentity("local", __version__, "in memory", None)
"""Results name the model themselves."""


class _Detail(WrittenDetail):
    votes: Annotated[list[Option | None], Field(min_length=1)]
    """The option that each sample names."""
    direct: Option | None = None
    """The option chosen at once; None where a server generated, which shows no log-probabilities."""
    hangul_share: float | None = None
    """Of the reasoning, mean over the samples."""
    contradictions: int = 0
    """Samples whose reasoning names another option last than the one answered."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Greedy with one sample; with several, sampled at `temperature` and decided by majority, a tie by the earliest
    (self-consistency: Wang et al. 2022, arXiv 2203.11171). Samples that cannot be parsed have no vote.

    Version 4 reads a model that names the option's text first (`style`) by the text, as its direct answers are: a small
    model writes the right text with any letter behind it. Version 3 draws samples by `inference.sampling`. Version 2
    read answers by `answer_line`: before, a letter that begins an option's text was taken for the answer.
    """

    samples: int = 1
    temperature: float = 0.7
    seed: int = 0
    max_new_tokens: int = 1024
    token_budget: int = 8192
    engine: TextEngine | None = None
    """What generates the texts; None: the model in memory."""
    style: AnswerStyle = "letters"
    """What an answer names first; direct answers, which are reported beside the explained ones, are read alike."""
    detail_type: type[Record] = _Detail
    name: str = "reasoning"
    version: str = "4"
    batch_questions: int = 128

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}; allowed: 1 (greedy) or more (majority vote)")
        if self.samples > 1 and self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}; with several samples it must be above 0")

    @property
    def settings(self) -> dict[str, Any]:
        sampling = {"temperature": self.temperature, "seed": self.seed} if self.samples > 1 else {}
        return {"samples": self.samples, "max_new_tokens": self.max_new_tokens, **sampling}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        engine = self.engine or LocalEngine(model, encoder, _IN_MEMORY, token_budget=self.token_budget)
        turns = encoder.turns if encoder else None  # a server has its tokenizer itself
        requests = [
            _request(question, turns, _seed(self.seed, question, sample))
            for question in questions
            for sample in range(self.samples)
        ]
        completions: dict[int, Completion] = {}
        engine.complete(
            requests,
            Sampling(self.max_new_tokens, 0.0 if self.samples == 1 else self.temperature),
            stop=answer_line_complete,
            on_completion=completions.__setitem__,
        )
        direct: list[int] | list[None] = [None] * len(questions)
        if model is not None and encoder is not None:
            direct = direct_choices(model, encoder, questions, self.style, token_budget=self.token_budget)
        read = choice_reader(self.style)
        rows = []
        for number, question in enumerate(questions):
            samples = [completions[number * self.samples + sample] for sample in range(self.samples)]
            votes = [read(completion.text, question.options) for completion in samples]
            rows.append(
                written_row(
                    question,
                    "\n----\n".join(completion.text for completion in samples),
                    majority(votes),
                    prompt_tokens=len(encoder.prompt_ids(reasoning_prompt(question))) if encoder else 0,
                    generated_tokens=sum(completion.tokens for completion in samples),
                    ended=all(completion.finish == "stop" for completion in samples),
                    votes=votes,
                    direct=direct[number],
                    **_texts(question, [completion.text for completion in samples], votes),
                )
            )
        return rows

    def report(self, rows: Sequence[QuestionResult]) -> dict[str, Any]:
        votes = [vote for row in rows for vote in row.detail["votes"]]
        unparsed = sum(vote is None for vote in votes)
        return {
            **written_report(rows),
            "unparsed_samples": {"n": len(votes), "count": unparsed, "rate": unparsed / len(votes)},
            "contradictions": {"n": len(votes), "count": sum(row.detail.get("contradictions", 0) for row in rows)},
            "mean_hangul_share": sum(row.detail.get("hangul_share") or 0.0 for row in rows) / len(rows),
            "against_direct": _against_direct(rows),
        }


def _texts(question: ExamQuestion, texts: Sequence[str], votes: Sequence[int | None]) -> dict[str, Any]:
    """What the reasoning of a question's samples is like."""
    reasoning = [reasoning_of(text) for text in texts]
    return {
        "hangul_share": sum(hangul_share(text, [question.question, *question.options]) for text in reasoning)
        / len(reasoning),
        "contradictions": sum(
            vote is not None and names_another(text, question, vote)
            for vote, text in zip(votes, reasoning, strict=True)
        ),
    }


def _against_direct(rows: Sequence[QuestionResult]) -> dict[str, Any] | None:
    """Explained against direct accuracy on the same questions, with the paired test; None without direct answers."""
    if any(row.detail.get("direct") is None for row in rows):
        return None
    return tax_of_explaining([row.detail["direct"] == row.gold for row in rows], [row.correct for row in rows])


def _request(question: ExamQuestion, turns: ChatTurns | None, seed: int) -> TextRequest:
    prompt = reasoning_prompt(question)
    message = Message("user", f"{prompt.user}\n{REASONING_INSTRUCTION}")
    return TextRequest(render(prompt, turns), (message,), seed)


def majority(votes: Sequence[int | None]) -> int | None:
    """The option with most votes, in a tie the one voted for first; None if no sample was parsed."""
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


def _seed(seed: int, question: ExamQuestion, sample: int) -> int:
    """A seed for each question and sample that does not depend on what else is evaluated."""
    text = f"{seed}/{question.exam}/{question.id}/{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
