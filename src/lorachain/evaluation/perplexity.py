"""Perplexity of held-out documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lorachain.errors import DataError
from lorachain.inference.batching import forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.logprobs import require_finite, token_logprobs
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.tokens import TokenRow
from lorachain.weights.load import head_weight


@dataclass(frozen=True, slots=True)
class PerplexityResult:
    """exp of the mean negative log-likelihood per supervised token, over all rows."""

    nll_sum: float
    """In nats."""
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll_sum / self.tokens)


def perplexity(model: nn.Module, rows: Sequence[TokenRow], *, token_budget: int = 8192) -> PerplexityResult:
    """Perplexity of the supervised ids of `rows`; each row is a sequence of its own that begins with BOS.

    Batches hold at most `token_budget` tokens, padding included, and the logits are computed in blocks.

    Raises:
        DataError: no row has a supervised token.
        NonFiniteError: logits are NaN or infinite.
    """
    if not any(row.supervised for row in rows):
        raise DataError("perplexity needs at least one supervised token; the held-out slice is empty")
    nll_sum, tokens = 0.0, 0
    weight = head_weight(model)
    with eval_mode(model):
        for group in forward_groups(model, [len(row) for row in rows], token_budget):
            group_rows = [rows[i] for i in group]
            read = [range(row.supervised_from - 1, len(row) - 1) for row in group_rows]
            hidden = hidden_states(model, [PrefixTree(row.ids) for row in group_rows], read)  # (N, H)
            targets = torch.tensor(
                [i for row in group_rows for i in row.ids[row.supervised_from :]], device=weight.device
            )
            nll_sum -= float(token_logprobs(hidden, weight, targets).double().sum())
            tokens += len(targets)
            require_finite([nll_sum], "perplexity of the held-out documents")
    return PerplexityResult(nll_sum, tokens)
