"""Log-probabilities of given tokens, without holding (N, V) logits."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lorachain.errors import NonFiniteError

ROW_BLOCK = 256
VOCABULARY_BLOCK = 8192
"""A block of logits of this size stays in a CPU's cache: the normalizer then takes no longer than its matrix product
alone, where whole rows of 262,144 logits take three times as long."""


def log_normalizer(hidden: Tensor, weight: Tensor) -> Tensor:
    """log Σ_v exp(h·w_v) per row: hidden (N, H), weight (V, H) -> (N,) float32.

    Products are in the weights' type, as the model's own head computes them, and statistics in float32. At most
    ROW_BLOCK x VOCABULARY_BLOCK logits exist at a time.
    """
    totals: list[Tensor] = []
    for rows in torch.split(hidden, ROW_BLOCK):
        partial = [torch.logsumexp((rows @ block.T).float(), dim=-1) for block in torch.split(weight, VOCABULARY_BLOCK)]
        totals.append(torch.logsumexp(torch.stack(partial), dim=0))
    return torch.cat(totals) if totals else hidden.new_empty(0, dtype=torch.float32)


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The logit of one token per row: hidden (N, H), weight (V, H), targets (N,) int64 -> (N,) float32."""
    logits: list[Tensor] = []
    for rows, ids in zip(torch.split(hidden, ROW_BLOCK), torch.split(targets, ROW_BLOCK), strict=True):
        logits.append((rows.float() * weight[ids].float()).sum(dim=-1))
    return torch.cat(logits) if logits else hidden.new_empty(0, dtype=torch.float32)


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each row's target: hidden (N, H), weight (V, H), targets (N,) int64 -> (N,) float32."""
    return target_logits(hidden, weight, targets) - log_normalizer(hidden, weight)


def greedy_tokens(hidden: Tensor, weight: Tensor) -> Tensor:
    """The token with the highest logit per row, of equals the first: hidden (N, H), weight (V, H) -> (N,) int64.

    -1 for a row whose highest logit is not finite.
    """
    best = hidden.new_full((len(hidden),), float("-inf"))
    tokens = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    for number, block in enumerate(torch.split(weight, VOCABULARY_BLOCK)):
        value, index = (hidden @ block.T).max(dim=-1)  # NaN where a logit of the block is
        tokens = torch.where(value > best, index + number * VOCABULARY_BLOCK, tokens)
        best = torch.maximum(best, value)
    return tokens.masked_fill(~best.isfinite(), -1)


def require_finite(values: Iterable[float], subject: str) -> None:
    """Checks numbers computed from logits; `subject` ("question 7") is what they were computed for.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if not all(map(math.isfinite, values)):
        raise non_finite_logits(subject)


def non_finite_logits(subject: str) -> NonFiniteError:
    return NonFiniteError(
        f"{subject}: the model's logits are NaN or infinite, so there is no result. Check the weights of the base and "
        "of the adapter for damage, and the type that the model computes in (Gemma 3 overflows float16)"
    )
