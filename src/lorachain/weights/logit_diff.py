"""Two models asked the same: how far apart are their answers?

One model is in memory at a time: `probe_logits` for the first, free it, again for the second, then `compare_logits`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorachain.weights.load import plain_model


@torch.inference_mode()
def probe_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The next-token logits after each row of ids, (N, V) float32 on the CPU; computed in the model's own type.

    Rows go through one by one, so that padding cannot make a difference. Adapters on the model take part.
    """
    inner = plain_model(model)
    device = next(inner.parameters()).device
    logits = [
        inner(input_ids=torch.tensor([list(row)], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for row in rows
    ]
    return torch.stack(logits).float().cpu()


def compare_logits(a: Tensor, b: Tensor, letter_ids: Sequence[int]) -> dict[str, Any]:
    """How far `b` is from `a`, both (N, V) float32 logits of the same rows.

    `rows` N; `max_abs_logit` and `mean_abs_logit` of b - a; `mean_kl` and `max_kl` of KL(softmax(a) || softmax(b)) in
    nats; `argmax_agreement`, the share of rows with the same most likely token; `letter_agreement`, the share with the
    same most likely of `letter_ids` (the ids of " A" to " E" as the exam asks for them).

    Raises:
        ValueError: the shapes differ, or there are no rows.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(f"probe logits have the shapes {list(a.shape)} and {list(b.shape)}: nothing to compare")
    difference = (b - a).abs()
    log_a, log_b = F.log_softmax(a.double(), dim=-1), F.log_softmax(b.double(), dim=-1)  # (N, V)
    kl = (log_a.exp() * (log_a - log_b)).sum(dim=-1)  # (N,)
    letters = torch.tensor(list(letter_ids))
    return {
        "rows": len(a),
        "max_abs_logit": float(difference.max()),
        "mean_abs_logit": float(difference.mean()),
        "mean_kl": float(kl.mean()),
        "max_kl": float(kl.max()),
        "argmax_agreement": _share_equal(a.argmax(-1), b.argmax(-1)),
        "letter_agreement": _share_equal(a[:, letters].argmax(-1), b[:, letters].argmax(-1)),
    }


def _share_equal(a: Tensor, b: Tensor) -> float:
    return float((a == b).double().mean())
