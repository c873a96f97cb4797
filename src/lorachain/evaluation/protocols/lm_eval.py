"""`lm-eval-3.0`: task `kormedmcqa` 3.0 of lm-evaluation-harness 0.4.13, prompt by prompt and letter by letter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lorachain.artifacts.schema import Record
from lorachain.evaluation.extraction import lm_eval_choice
from lorachain.evaluation.protocols.base import QuestionResult, Shots, shots_text, subject_shots
from lorachain.evaluation.protocols.generated import WrittenDetail, written_report, written_row
from lorachain.inference.generate import generate
from lorachain.prompts import ANSWER_CUE, question_block
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

STOPS = ("Q:", "</s>", "<|im_end|>", ".", "\n\n")
MAX_NEW_TOKENS = 1024


def lm_eval_prompt(question: ExamQuestion, shots: Sequence[ExamQuestion]) -> str:
    """The harness' prompt as text: worked examples, the question with its options, the answer cue; no chat template."""
    return f"{shots_text(shots)}{question_block(question)}\n{ANSWER_CUE}"


@dataclass(frozen=True, slots=True)
class LmEval:
    """Greedy; the cascade of the paper's appendix B reads the text before the first stop string.

    A sequence ends at its first stop string; the harness continues until its whole batch has stopped, and then cuts
    the text at the same position.
    """

    shots: int = 5
    examples: Shots = field(default_factory=dict)
    token_budget: int = 8192
    detail_type: type[Record] = WrittenDetail
    name: str = "lm-eval-3.0"
    version: str = "3.0"
    batch_questions: int = 128

    @property
    def settings(self) -> dict[str, Any]:
        return {"shots": self.shots, "max_new_tokens": MAX_NEW_TOKENS}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[QuestionResult]:
        if not questions:
            return []
        shots = subject_shots(self.examples, questions[0].subject, self.shots)
        # The harness adds the end token's text, which a model can also write out in ordinary tokens.
        stops = (*STOPS, encoder.tokenizer.decode([encoder.eos_id]))
        prompts = [[encoder.bos_id, *encoder.text_ids(lm_eval_prompt(question, shots))] for question in questions]
        generations = generate(
            model,
            encoder,
            prompts,
            stop=lambda text: any(stop in text for stop in stops),
            max_new_tokens=MAX_NEW_TOKENS,
            token_budget=self.token_budget,
        )
        rows = []
        for question, prompt, generation in zip(questions, prompts, generations, strict=True):
            text = before_stop(generation.text, stops)
            rows.append(
                written_row(
                    question,
                    text,
                    lm_eval_choice(text),
                    prompt_tokens=len(prompt),
                    generated_tokens=generation.tokens,
                    ended=generation.ended,
                )
            )
        return rows

    def report(self, rows: Sequence[QuestionResult]) -> dict[str, Any]:
        return written_report(rows)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of any stop string."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
