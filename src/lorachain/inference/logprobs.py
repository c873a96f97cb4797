"""Log-probabilities of given tokens, without ever holding a row of the vocabulary for every position."""

import torch
from torch import Tensor

ROWS = 256
COLUMNS = 8192
"""A block of logits of this size stays in a processor's cache: on a CPU the normalizer then costs no more time than its
matrix product alone, where whole rows of 262,144 columns cost three times as much."""


def log_normalizer(hidden: Tensor, weight: Tensor) -> Tensor:
    """log Σ_v exp(h·w_v) of each row: hidden (N, H), weight (V, H) -> (N,) float32.

    Products are in the weights' type, as the model's own head computes them; their statistics in float32. At most
    ROWS x COLUMNS logits exist at a time.
    """
    totals: list[Tensor] = []
    for rows in torch.split(hidden, ROWS):
        partial = [torch.logsumexp((rows @ block.T).float(), dim=-1) for block in torch.split(weight, COLUMNS)]
        totals.append(torch.logsumexp(torch.stack(partial), dim=0))
    return torch.cat(totals) if totals else hidden.new_empty(0, dtype=torch.float32)


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The logit of one token a row: hidden (N, H), weight (V, H), targets (N,) int64 -> (N,) float32."""
    found: list[Tensor] = []
    for rows, ids in zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True):
        found.append((rows.float() * weight[ids].float()).sum(dim=-1))
    return torch.cat(found) if found else hidden.new_empty(0, dtype=torch.float32)


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each row's target: hidden (N, H), weight (V, H), targets (N,) int64 -> (N,) float32."""
    return target_logits(hidden, weight, targets) - log_normalizer(hidden, weight)


def most_likely(hidden: Tensor, weight: Tensor) -> Tensor:
    """The token with the highest logit of each row, the first of equals: hidden (N, H), weight (V, H) -> (N,) int64."""
    best = hidden.new_full((len(hidden),), float("-inf"))
    chosen = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    for number, block in enumerate(torch.split(weight, COLUMNS)):
        value, index = (hidden @ block.T).max(dim=-1)
        better = value > best
        best = torch.where(better, value, best)
        chosen = torch.where(better, index + number * COLUMNS, chosen)
    return chosen
