"""`letters`: the option letter with the highest next-token logit after the answer cue."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.base import Row, Shots, shots_text, subject_shots
from lorachain.evaluation.scoring import LetterTokens, first_argmax, five_logprobs, letter_tokens
from lorachain.inference.batching import forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.prefix_cache import KeyValues, PrefixCache, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.prompts import ANSWER_CUE, Prompt, question_block, rotations
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight


@dataclass(frozen=True, slots=True)
class Letters:
    """With 0 or more worked examples, and one or all five cyclic orders of the options.

    With five orders a question's score is the mean, over the orders, of each option's probability among the five
    letters (the cyclic-permutation baseline of Zheng et al. 2023, arXiv 2309.03882). The worked examples are
    computed once for all questions, a question's prefix once for its five orders.
    """

    shots: int = 0
    orders: int = 1
    examples: Shots = field(default_factory=dict)
    token_budget: int = 8192
    name: str = "letters"
    version: str = "1"

    def __post_init__(self) -> None:
        if self.orders not in (1, len(LETTERS)):
            raise ConfigError(f"rotations is {self.orders}; allowed: 1 (as printed) or 5 (every cyclic order)")
        if self.shots < 0:
            raise ConfigError(f"shots is {self.shots}; allowed: 0 or more")

    @property
    def batch_questions(self) -> int:
        # The worked examples are computed once a batch.
        return 256 if self.shots else 64

    @property
    def settings(self) -> dict[str, Any]:
        return {"shots": self.shots, "rotations": self.orders}

    def score(self, model: nn.Module, encoder: TokenEncoder, questions: Sequence[ExamQuestion]) -> list[Row]:
        if not questions:
            return []
        letters = letter_tokens(encoder)
        before = shots_text(subject_shots(self.examples, questions[0].subject, self.shots))
        prompts: list[list[list[int]]] = []  # (question, order, ids)
        for question in questions:
            asked = rotations(question) if self.orders > 1 else [question]
            lines = [encoder.prompt_ids(Prompt(before + question_block(q), ANSWER_CUE)) for q in asked]
            prompts.append([[*line, *letters.shared] for line in lines])
        shared = common_prefix([line for lines in prompts for line in lines]) if self.shots else 0
        rows: dict[int, Row] = {}
        with eval_mode(model):
            prefix_cache = compute_prefix_cache(model, prompts[0][0][:shared])
            begin = prefix_cache.length if prefix_cache is not None else 0
            trees = [_tree([line[begin:] for line in lines]) for lines in prompts]
            for group in forward_groups(model, [len(tree) for tree in trees], self.token_budget, prefix_cache):
                found = _probabilities(model, [trees[i] for i in group], prefix_cache, letters, self.orders)
                for index, by_order in zip(group, found, strict=True):
                    rows[index] = _row(questions[index], by_order, len(prompts[index][0]))
        return [rows[i] for i in range(len(questions))]

    def report(self, rows: Sequence[Row]) -> dict[str, Any]:
        """How the model's answers lean on a letter's place: `chosen_letters` and `accuracy_by_gold_letter` count every
        order that was asked, by the letter under which an option stood; `agreement` says how often the orders of one
        question name the same option."""
        asked = [(row, shift, shown) for row in rows for shift, shown in enumerate(row.detail["shown"])]
        by_gold: dict[str, dict[str, Any]] = {}
        for place, letter in enumerate(LETTERS):
            hits = [shown == place for row, shift, shown in asked if (row.gold - shift) % len(LETTERS) == place]
            by_gold[letter] = {
                "n": len(hits), "correct": sum(hits), "accuracy": sum(hits) / len(hits) if hits else None
            }  # fmt: skip
        told: dict[str, Any] = {
            "chosen_letters": {a: sum(shown == i for _, _, shown in asked) for i, a in enumerate(LETTERS)},
            "accuracy_by_gold_letter": by_gold,
        }
        if self.orders > 1:
            # The option that each order names, by its place in the question as printed.
            named = [[(shown + shift) % len(LETTERS) for shift, shown in enumerate(r.detail["shown"])] for r in rows]
            most = [max(options.count(i) for i in range(len(LETTERS))) for options in named]
            told["agreement"] = {
                "n": len(rows),
                "all_orders_agree": sum(count == self.orders for count in most),
                "mean_share_of_most_named": sum(most) / (self.orders * len(most)),
            }
        return told


def _tree(lines: list[list[int]]) -> PrefixTree:
    """A single prompt is all prefix; several share their common prefix."""
    if len(lines) == 1:
        return PrefixTree(lines[0])
    prefix = common_prefix(lines)
    return PrefixTree(lines[0][:prefix], [line[prefix:] for line in lines])


def _probabilities(
    model: nn.Module, trees: list[PrefixTree], prefix_cache: PrefixCache | None, letters: LetterTokens, orders: int
) -> list[list[list[float]]]:
    """Log-probabilities among the five letters: (tree, order, letter)."""
    read = [
        [tree.path(continuation)[-1] for continuation in range(orders)] if tree.continuations else [len(tree) - 1]
        for tree in trees
    ]
    hidden = hidden_states(model, trees, read, KeyValues(prefix_cache))
    five = five_logprobs(hidden, head_weight(model), letters)  # (trees x orders, 5)
    found: list[list[list[float]]] = five.view(len(trees), orders, len(LETTERS)).tolist()
    return found


def _row(question: ExamQuestion, by_order: list[list[float]], prompt_tokens: int) -> Row:
    logprobs = torch.tensor(by_order, dtype=torch.float64)  # (orders, letters)
    # In order s, the letter i stood before the option (i + s) mod 5.
    of_options = torch.stack([line.roll(shift) for shift, line in enumerate(logprobs)])
    mean = of_options.exp().mean(dim=0).log().tolist()
    return Row(
        id=question.id,
        exam=question.exam,
        subject=question.subject,
        gold=question.answer,
        chosen=first_argmax(mean),
        logprobs=tuple(mean),
        prompt_tokens=prompt_tokens,
        detail={"shown": [first_argmax(line) for line in by_order]},
    )
