"""How far apart are the logits of two models on the same prompts, and is that within rounding?

One model is in memory at a time: `probe_logits` for the first, free it, again for the second, then `compare_logits` and
`check_logit_diff`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorachain.config import Quantization
from lorachain.errors import ModelError
from lorachain.weights.load import plain_model

MEAN_KL_LIMITS = {torch.bfloat16: 0.05, torch.float32: 0.005}
"""Nats, by the type that logits are computed in. Right merges of Gemma 3 270M are at 0.0013 to 0.0041 in bf16, where
nearly all is the arithmetic, and at 0.00015 in float32, where it is the rounding of the merged weights
(docs/experiments.md). One projection of one layer merged with eight times its scale is at 0.013 in both, an adapter
that is left out at 0.08 and more."""
INT8_MEAN_KL_LIMIT = 0.2
"""LLM.int8() also rounds activations, which no merge can reproduce: 0.027 for Gemma 3 270M."""


@torch.inference_mode()
def probe_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> Tensor:
    """The next-token logits after each row of ids, (N, V) float32 on the CPU; computed in the model's own type.

    Each row is a forward pass of its own, so that padding cannot make a difference. Adapters on the model are applied.
    """
    inner = plain_model(model)
    device = next(inner.parameters()).device
    logits = [
        inner(input_ids=torch.tensor([list(row)], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for row in rows
    ]
    return torch.stack(logits).float().cpu()


def compare_logits(
    a: Tensor, b: Tensor, letter_ids: Sequence[int], names: tuple[str, str] = ("the first model", "the second model")
) -> dict[str, Any]:
    """How far `b` is from `a`, both (N, V) float32 logits of the same rows.

    `rows` N; `max_abs_logit` and `mean_abs_logit` of b - a; `mean_kl` and `max_kl` of KL(softmax(a) || softmax(b)) in
    nats; `argmax_agreement`, the share of rows with the same most likely token; `letter_agreement`, the share with the
    same most likely of `letter_ids` (the ids of " A" to " E" as the exam scores them). All are finite.

    Raises:
        ValueError: the shapes differ, or there are no rows.
        ModelError: a logit is NaN or infinite; says which of the two `names` it is from.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(f"probe logits have the shapes {list(a.shape)} and {list(b.shape)}: nothing to compare")
    for name, logits in zip(names, (a, b), strict=True):
        broken = int((~torch.isfinite(logits).all(-1)).sum())
        if broken:
            raise ModelError(
                f"the logits of {name} are not finite (NaN or infinity) in {broken} of {len(logits)} probe rows: its "
                "weights are damaged, or its activations overflow"
            )
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


def mean_kl_limit(dtype: torch.dtype, quantization: Quantization = "none") -> float:
    """The largest `mean_kl` between two models that are the same up to rounding, computed in `dtype`.

    `quantization`: what one of the two holds its weights in.
    """
    return INT8_MEAN_KL_LIMIT if quantization == "int8" else MEAN_KL_LIMITS[dtype]


def check_logit_diff(diff: dict[str, Any], limit: float, what: str) -> None:
    """Raises ModelError where the `mean_kl` of `compare_logits` is above `limit`; `what` names what was compared."""
    if not diff["mean_kl"] <= limit:  # true also for NaN
        raise ModelError(
            f"{what} differ by more than rounding: mean KL {diff['mean_kl']:.3g} nats over {diff['rows']} probe rows "
            f"(allowed: {limit:g}), logits differ by up to {diff['max_abs_logit']:.3g}. Nothing was kept. Check that "
            "the adapter was trained on this base and that its training did not diverge"
        )


def _share_equal(a: Tensor, b: Tensor) -> float:
    return float((a == b).double().mean())
