"""`kormedeval`: the zero-shot JSON protocol of the benchmark's authors (github.com/baeseongsu/kormedmcqa_v)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorachain.artifacts.schema import Record
from lorachain.evaluation.extraction import kormedeval_choice
from lorachain.evaluation.protocols.base import QuestionResult
from lorachain.evaluation.protocols.generated import WrittenDetail, written_report, written_row
from lorachain.inference.generate import generate
from lorachain.prompts import json_prompt
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder


@dataclass(frozen=True, slots=True)
class KorMedEval:
    """Greedy (the authors' setting for MedGemma). Only its end token stops an answer, as the last object counts.

    The authors allow 8,192 tokens; a base model that never ends its turn would use all of them for every question, so
    the limit is a setting, and the number of answers that it cut off is reported.
    """

    max_new_tokens: int = 1024
    token_budget: int = 8192
    detail_type: type[Record] = WrittenDetail
    name: str = "kormedeval"
    version: str = "1"
    batch_questions: int = 128

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        prompts = [encoder.prompt_ids(json_prompt(question)) for question in questions]
        generations = generate(
            model,
            encoder,
            prompts,
            stop=lambda text: False,
            max_new_tokens=self.max_new_tokens,
            token_budget=self.token_budget,
        )
        return [
            written_row(
                question,
                generation.text,
                kormedeval_choice(generation.text),
                prompt_tokens=len(prompt),
                generated_tokens=generation.tokens,
                ended=generation.ended,
            )
            for question, prompt, generation in zip(questions, prompts, generations, strict=True)
        ]

    def report(self, rows: Sequence[QuestionResult]) -> dict[str, Any]:
        return written_report(rows)
