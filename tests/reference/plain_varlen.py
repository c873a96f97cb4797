"""What `torch.nn.attention.varlen.varlen_attn` computes, with its signature, one run after another.

The real one runs on CUDA only. Queries are aligned with the end of their keys, as in FlashAttention from version 2.1 on
(https://github.com/Dao-AILab/flash-attention, "Change behavior of causal flag").
"""

import torch
from torch import Tensor


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """(total queries, heads, d)."""
    left, right = window_size
    assert right == 0
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    queries, keys = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (max(queries), max(keys)) == (max_q, max_k)
    assert (sum(queries), sum(keys)) == (len(query), len(key)) == (len(query), len(value))
    shared = query.shape[1] // key.shape[1]
    outputs = []
    for q, k, v in zip(torch.split(query, queries), torch.split(key, keys), torch.split(value, keys), strict=True):
        distance = torch.arange(len(q))[:, None] + (len(k) - len(q)) - torch.arange(len(k))
        allowed = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(shared, 1)) * scale
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v.repeat_interleave(shared, 1)))
    return torch.cat(outputs)
