"""Perplexity of held-out documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lorachain.errors import DataError
from lorachain.inference.batching import map_in_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.logprobs import require_finite, token_logprobs
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.provenance import sha256_json
from lorachain.tokens import TokenRow
from lorachain.weights.load import head_weight


@dataclass(frozen=True, slots=True)
class PerplexityResult:
    """exp of the mean negative log-likelihood per supervised token, over all rows."""

    row_sums: tuple[float, ...]
    """Negative log-likelihood of each row in nats."""
    tokens: int

    @property
    def nll_sum(self) -> float:
        """In nats, over all rows."""
        return math.fsum(self.row_sums)

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll_sum / self.tokens)


def perplexity(model: nn.Module, rows: Sequence[TokenRow], *, token_budget: int = 8192) -> PerplexityResult:
    """Perplexity of the supervised ids of `rows`; each row is a sequence of its own that begins with BOS.

    Batches hold at most `token_budget` tokens, padding included, and the logits are computed in blocks.

    Raises:
        DataError: no row has a supervised token.
        NonFiniteError: logits are NaN or infinite.
        DeviceError: a row does not fit in the device's memory.
    """
    if not any(row.supervised for row in rows):
        raise DataError("perplexity needs at least one supervised token; the held-out slice is empty")
    weight = head_weight(model)
    with eval_mode(model):

        def score(group: list[int]) -> list[float]:
            group_rows = [rows[i] for i in group]
            read = [range(row.supervised_from - 1, len(row) - 1) for row in group_rows]
            hidden = hidden_states(model, [PrefixTree(row.ids) for row in group_rows], read)  # (N, H)
            targets = torch.tensor(
                [i for row in group_rows for i in row.ids[row.supervised_from :]], device=weight.device
            )
            logprobs_of_all = token_logprobs(hidden, weight, targets).double()
            of_rows = torch.split(logprobs_of_all, [row.supervised for row in group_rows])
            sums = [-float(logprobs.sum()) for logprobs in of_rows]
            require_finite(sums, "perplexity of the held-out documents")
            return sums

        sums = map_in_groups(model, [len(row) for row in rows], token_budget, score)
    return PerplexityResult(tuple(sums), sum(row.supervised for row in rows))


def document_sums(rows: Sequence[TokenRow], result: PerplexityResult) -> tuple[list[float], list[int]]:
    """Negative log-likelihood in nats and supervised tokens of each document, whose pieces share a `record`."""
    sums: dict[int, float] = {}
    tokens: dict[int, int] = {}
    for row, nll in zip(rows, result.row_sums, strict=True):
        sums[row.record] = sums.get(row.record, 0.0) + nll
        tokens[row.record] = tokens.get(row.record, 0) + row.supervised
    return list(sums.values()), list(tokens.values())


def rows_sha256(rows: Sequence[TokenRow]) -> str:
    """The identity of tokenized documents: two perplexities compare only where it is the same."""
    return sha256_json([row.ids for row in rows])
