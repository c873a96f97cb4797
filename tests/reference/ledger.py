"""The cells of the ledger and their comparisons, from their definitions: full logits, and every bootstrap draw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reference.exam_scores import logits_of
from reference.exam_statistics import Distribution, exact_mcnemar, holm, resampled

LAST_TOKENS = 8


# ---- values ----------------------------------------------------------------------------------------------------------


def document_nll(model: Any, ids: Sequence[int]) -> float:
    """Negative log-likelihood in nats of everything after the first id."""
    logprobs = logits_of(model, ids).log_softmax(-1)
    return -sum(logprobs[i, token].item() for i, token in enumerate(ids[1:]))


def perplexity(sums: Sequence[float], tokens: Sequence[int]) -> float:
    return math.exp(sum(sums) / sum(tokens))


def kl_from_base(base: Any, model: Any, ids: Sequence[int]) -> list[float]:
    """KL(base || model) in nats at each of the last positions (Shenfeld et al. 2025, arXiv 2509.04259)."""
    values = []
    before, after = (logits_of(one, ids).log_softmax(-1) for one in (base, model))
    for position in range(max(0, len(ids) - LAST_TOKENS), len(ids)):
        p, log_p, log_q = before[position].exp(), before[position], after[position]
        values.append(torch.sum(p * (log_p - log_q)).item())
    return values


# ---- comparisons -----------------------------------------------------------------------------------------------------


@dataclass
class Shares:
    """The same questions at two steps."""

    before: list[bool]
    after: list[bool]

    @property
    def difference(self) -> float:
        return sum(self.after) / len(self.after) - sum(self.before) / len(self.before)

    @property
    def p(self) -> float:
        return exact_mcnemar(self.before, self.after)


@dataclass
class Documents:
    """The same documents at two steps: nats and tokens of each."""

    before: list[float]
    after: list[float]
    tokens: list[int]

    @property
    def difference(self) -> float:
        return perplexity(self.after, self.tokens) - perplexity(self.before, self.tokens)

    def draws(self) -> Distribution:
        """The difference in every draw of the documents, before and after and tokens together."""

        def of(draw: Sequence[int]) -> float:
            tokens = [self.tokens[i] for i in draw]
            after, before = ([sums[i] for i in draw] for sums in (self.after, self.before))
            return perplexity(after, tokens) - perplexity(before, tokens)

        return resampled(len(self.tokens), of)

    @property
    def tail(self) -> float:
        """Twice the share of draws on the rarer side of zero; a draw at zero is on both."""
        draws = self.draws()
        low = sum(p for value, p in draws.items() if value <= 0)
        high = sum(p for value, p in draws.items() if value >= 0)
        return 2 * min(low, high)

    @property
    def least_p(self) -> float:
        """The chance that all differences have one sign."""
        return 2.0 ** (1 - len(self.tokens))


def verdicts(
    differences: Sequence[float],
    p_values: Sequence[float],
    noises: Sequence[float | None],
    higher_is_better: Sequence[bool],
) -> list[str]:
    """What is said of each measure of one step, all of them tested together."""
    said = []
    adjusted = holm(p_values)
    for difference, p, noise, higher in zip(differences, adjusted, noises, higher_is_better, strict=True):
        if noise is not None and difference != 0 and abs(difference) <= noise:
            said.append("within noise")
        elif p >= 0.05:
            said.append("not significantly different")
        else:
            said.append("better" if (difference > 0) == higher else "worse")
    return said
