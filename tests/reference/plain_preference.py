"""The loss of preferring a right answer to a wrong one (RPO, arXiv 2404.19733), from the definition alone.

-log sigmoid(beta · ((log p(right) - log q(right)) - (log p(wrong) - log q(wrong)))), averaged over the pairs, and
-log p(right) per token, averaged over the tokens of all right answers. p is the model, q another one that is not
trained. Every answer runs through the unchanged transformers model by itself. Nothing here imports lorachain.
"""

import torch
from torch import Tensor, nn

from reference.plain_loss import Document, negative_log_likelihood

Pair = tuple[Document, Document]
"""The right answer and the wrong one, each with its prompt."""


def answer_log_probability(model: nn.Module, document: Document) -> Tensor:
    """log p of the supervised ids, summed."""
    ids, supervised_from = document
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()  # (T, V)
    losses = [negative_log_likelihood(logits[at - 1], ids[at]) for at in range(supervised_from, len(ids))]
    return -torch.stack(losses).sum()


def preference_loss(
    model: nn.Module, reference: nn.Module, pairs: list[Pair], others: list[Document], *, beta: float, weight: float
) -> Tensor:
    """weight · DPO over the pairs + the mean likelihood loss of all right answers and of `others`."""
    preferred, likelihood, tokens = [], [], 0
    for right, wrong in pairs:
        p_right, p_wrong = answer_log_probability(model, right), answer_log_probability(model, wrong)
        with torch.no_grad():
            q_right, q_wrong = answer_log_probability(reference, right), answer_log_probability(reference, wrong)
        margin = (p_right - q_right) - (p_wrong - q_wrong)
        preferred.append((1 + (-beta * margin).exp()).log())
        likelihood.append(-p_right)
    likelihood += [-answer_log_probability(model, document) for document in others]
    for ids, supervised_from in [*(right for right, _ in pairs), *others]:
        tokens += len(ids) - supervised_from
    return weight * torch.stack(preferred).mean() + torch.stack(likelihood).sum() / tokens
