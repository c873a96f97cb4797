"""Cross entropy of supervised rows against 262,144 vocabulary rows, without ever keeping a (N, V) tensor.

The head is frozen and tied to the embeddings, so it needs no gradient of its own: the hidden states' gradient is
formed chunk by chunk in the forward pass, while a chunk's logits are at hand, as in Liger (Hsu et al. 2024,
arXiv 2410.10989) and Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009). Products run in the weights' type,
statistics in float32. Both of those need Triton; this runs everywhere.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorachain.tokens import IGNORE_INDEX
from lorachain.weights.load import head_weight, text_decoder

CHUNK_ROWS = 128
"""Rows scored at a time: 128 x 262,144 logits are 64 MiB in bf16."""


class _SupervisedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        wants_gradient = hidden.requires_grad
        gradient = torch.empty_like(hidden) if wants_gradient else None  # (N, H)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            target = targets[rows].unsqueeze(1)  # (C, 1)
            logits = (hidden[rows] @ weight.T).float()  # (C, V)
            log_normaliser = logits.logsumexp(dim=1, keepdim=True)  # (C, 1)
            total += (log_normaliser - logits.gather(1, target)).sum()
            if gradient is not None:
                probabilities = logits.sub_(log_normaliser).exp_()  # (C, V), in place: the logits are spent
                probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
                gradient[rows] = probabilities.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream.to(gradient.dtype), None, None)


def supervised_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods, in nats, as a float32 scalar.

    Args:
        hidden: (N, H) hidden states that predict, in the weights' type.
        weight: (V, H) frozen head.
        targets: (N,) ids to predict.
    """
    return cast(Tensor, _SupervisedCrossEntropy.apply(hidden, weight, targets))  # type: ignore[no-untyped-call]


class SupervisedLanguageModel(nn.Module):
    """A causal language model whose forward pass is its training loss.

    The decoder runs on whole rows, the head on supervised positions only. It is the module that the Trainer calls, and
    so what DDP and FSDP wrap.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, normaliser: Tensor) -> Tensor:
        """Loss summed over (B, T) `labels` that are not IGNORE_INDEX, divided by `normaliser` (a scalar).

        Labels are shifted already (`tokens.collate`).
        """
        decoder = text_decoder(self.model)
        states = decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state  # (B, T, H)
        supervised = labels != IGNORE_INDEX  # (B, T)
        loss = supervised_cross_entropy(states[supervised], head_weight(self.model), labels[supervised])
        return loss / normaliser
