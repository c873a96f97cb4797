"""`reasoning`: the model explains, then answers; once greedily, or several times with a vote."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.errors import ConfigError
from lorachain.evaluation.answer_line import answer_line_complete, reasoned_choice
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.evaluation.protocols.generated import written_report, written_row
from lorachain.inference.generate import generate
from lorachain.prompts import reasoning_prompt
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Greedy with one sample; with several, sampled at `temperature` and decided by majority, a tie by the earliest
    (self-consistency: Wang et al. 2022, arXiv 2203.11171). Samples that cannot be parsed have no vote.

    Version 3 draws samples by `inference.sampling`. Version 2 read answers by `answer_line`: before, a letter that
    begins an option's text was taken for the answer.
    """

    samples: int = 1
    temperature: float = 0.7
    seed: int = 0
    max_new_tokens: int = 1024
    token_budget: int = 8192
    name: str = "reasoning"
    version: str = "3"
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
        prompts = [encoder.prompt_ids(reasoning_prompt(question)) for question in questions]
        greedy = self.samples == 1
        generations = generate(
            model,
            encoder,
            [prompt for prompt in prompts for _ in range(self.samples)],
            stop=answer_line_complete,
            max_new_tokens=self.max_new_tokens,
            token_budget=self.token_budget,
            temperature=0.0 if greedy else self.temperature,
            seeds=None if greedy else [_seed(self.seed, q, i) for q in questions for i in range(self.samples)],
        )
        rows = []
        for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
            samples = generations[number * self.samples : (number + 1) * self.samples]
            votes = [reasoned_choice(generation.text, question.options) for generation in samples]
            rows.append(
                written_row(
                    question,
                    "\n----\n".join(generation.text for generation in samples),
                    majority(votes),
                    prompt_tokens=len(prompt),
                    generated_tokens=sum(generation.tokens for generation in samples),
                    ended=all(generation.ended for generation in samples),
                    votes=votes,
                )
            )
        return rows

    def report(self, rows: Sequence[QuestionResult]) -> dict[str, Any]:
        votes = [vote for row in rows for vote in row.detail["votes"]]
        unparsed = sum(vote is None for vote in votes)
        return {
            **written_report(rows),
            "unparsed_samples": {"n": len(votes), "count": unparsed, "rate": unparsed / len(votes)},
        }


def majority(votes: Sequence[int | None]) -> int | None:
    """The option with most votes, in a tie the one voted for first; None if no sample was parsed."""
    counts = Counter(vote for vote in votes if vote is not None)
    return counts.most_common(1)[0][0] if counts else None


def _seed(seed: int, question: ExamQuestion, sample: int) -> int:
    """A seed for each question and sample that does not depend on what else is evaluated."""
    text = f"{seed}/{question.exam}/{question.id}/{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
