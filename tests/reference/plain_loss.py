"""The loss of supervised fine-tuning, from the definition alone: full logits, in float32.

-log p(next token), averaged over the supervised tokens of all documents. Each document runs through the unchanged
transformers model by itself, so there is no packing, no padding and no mask. Nothing here imports lorachain.
"""

import torch
from torch import Tensor

Document = tuple[list[int], int]
"""Token ids, and the position of the first supervised one."""


def negative_log_likelihood(logits: Tensor, target: int) -> Tensor:
    """-log softmax(logits)[target] of one position; logits (V,), float32."""
    highest = logits.max()
    return highest + (logits - highest).exp().sum().log() - logits[target]


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Position by position: hidden (N, H) and weight (V, H) in float32, targets (N,)."""
    losses = [
        negative_log_likelihood(weight @ state, int(target)) for state, target in zip(hidden, targets, strict=True)
    ]
    return torch.stack(losses).sum() if losses else hidden.sum() * 0


def mean_loss(model: torch.nn.Module, documents: list[Document]) -> Tensor:
    """Over all supervised tokens of the documents."""
    losses = []
    for ids, supervised_from in documents:
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()  # (T, V)
        losses += [negative_log_likelihood(logits[at - 1], ids[at]) for at in range(supervised_from, len(ids))]
    return torch.stack(losses).mean()
