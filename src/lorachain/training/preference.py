"""Preferring a right answer to a wrong one of the same question: DPO beside the likelihood of the right answer.

The loss is that of Rafailov et al. 2023 (arXiv 2305.18290), the likelihood term that of Pang et al. 2024 (arXiv
2404.19733, "RPO"): without it, the probability of the right answer falls together with that of the wrong one. The
reference is the model without its adapter, which is what stage 02 starts from: no second model is in memory.
"""

import torch.nn.functional as F
from torch import Tensor


def preference_margins(log_ratios: Tensor, signs: Tensor) -> Tensor:
    """Per pair, how much more the model prefers the right answer to the wrong one than the reference does, in nats.

    Args:
        log_ratios: (N,) float32, log p - log p of the reference of each supervised token.
        signs: (P, N) float32, 1 at the tokens of a pair's right answer, -1 at those of its wrong one, 0 elsewhere.

    Returns:
        (P,) float32.
    """
    return signs @ log_ratios  # a product is deterministic on a GPU too, unlike index_add


def preference_losses(margins: Tensor, beta: float) -> Tensor:
    """(P,): -log sigmoid(beta · margin), equation 7 of arXiv 2305.18290."""
    return -F.logsigmoid(beta * margins)
