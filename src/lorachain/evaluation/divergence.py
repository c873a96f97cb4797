"""How far a tuned model's next-token distributions are from the base's, in nats.

Forgetting follows KL(base || tuned) on the new task's prompts (Shenfeld et al. 2025, arXiv 2509.04259). A LoRA of ours
never adapts the head, so the base's distributions follow from its final hidden states: (N, H) numbers, not (N, V).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lorachain.inference.batching import map_in_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.logprobs import ROW_BLOCK, VOCABULARY_BLOCK, require_finite
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.weights.load import head_weight

VERSION = "1"
LAST_TOKENS = 8
"""Positions of each prompt that are compared, its last ones: what follows them is the stage's own."""


def prompt_hidden_states(model: nn.Module, prompts: Sequence[Sequence[int]], *, token_budget: int) -> list[Tensor]:
    """Final hidden states (min(T, LAST_TOKENS), H) on the CPU at the last positions of each prompt of T ids."""
    with eval_mode(model):

        def compute(group: list[int]) -> list[Tensor]:
            read = [range(max(0, len(prompts[i]) - LAST_TOKENS), len(prompts[i])) for i in group]
            hidden = hidden_states(model, [PrefixTree(list(prompts[i])) for i in group], read)
            return [part.cpu().clone() for part in torch.split(hidden, [len(positions) for positions in read])]

        return map_in_groups(model, [len(prompt) for prompt in prompts], token_budget, compute)


def prompt_divergence(
    model: nn.Module, prompts: Sequence[Sequence[int]], base: Sequence[Tensor], *, token_budget: int
) -> list[float]:
    """KL(base || model) of each prompt in nats, summed over its compared positions.

    Args:
        base: the base's `prompt_hidden_states` of the same prompts.

    Raises:
        NonFiniteError: logits are NaN or infinite.
    """
    tuned = prompt_hidden_states(model, prompts, token_budget=token_budget)
    weight = head_weight(model)
    with torch.inference_mode():
        of_rows = kl(torch.cat(list(base)).to(weight), torch.cat(tuned).to(weight), weight).double()
        sums = [float(part.sum()) for part in torch.split(of_rows, [len(states) for states in tuned])]
    require_finite(sums, "KL divergence from the base")
    return sums


def kl(before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """KL(p || q) per row for p = softmax(before W^T), q = softmax(after W^T): (N, H), (N, H), (V, H) -> (N,) float32.

    With l the logits and Z their log normalizer, KL = E_p[l_p - l_q] - (Z_p - Z_q). E_p is collected block by block of
    the vocabulary, each weighted by its probability, so that (N, V) logits never exist.
    """
    results = []
    for rows_p, rows_q in zip(torch.split(before, ROW_BLOCK), torch.split(after, ROW_BLOCK), strict=True):
        z_p, z_q, mean = [], [], []
        for block in torch.split(weight, VOCABULARY_BLOCK):
            logits_p, logits_q = (rows_p @ block.T).float(), (rows_q @ block.T).float()
            z_p.append(torch.logsumexp(logits_p, dim=-1))
            z_q.append(torch.logsumexp(logits_q, dim=-1))
            mean.append((torch.softmax(logits_p, dim=-1) * (logits_p - logits_q)).sum(dim=-1))
        blocks_p = torch.stack(z_p)  # (blocks, N)
        total_p, total_q = torch.logsumexp(blocks_p, dim=0), torch.logsumexp(torch.stack(z_q), dim=0)
        expected = ((blocks_p - total_p).exp() * torch.stack(mean)).sum(dim=0)
        results.append((expected - (total_p - total_q)).clamp(min=0))
    return torch.cat(results)
