"""Causal attention for training on a CPU: matrix products in blocks of queries.

PyTorch's fused kernel reaches a tenth of the machine's bf16 rate on a CPU at Gemma's head width of 256; plain products
reach two to three times that (docs/benchmarks.md). They are taken block by block, so that keys in the future and, where
a window slides, keys out of it cost nothing, and the probabilities are computed again in the backward pass instead of
kept (as in flash attention, Dao et al. 2022, arXiv 2205.14135): nothing of size T x T is ever held. Query heads that
share a key head are rows of one product.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCKWISE = "lorachain_blockwise"
QUERY_BLOCK = 128


def use_blockwise_attention(model: PreTrainedModel) -> None:
    """On a CPU, turns the model to the attention of this module. Without gradients it stays PyTorch's own."""
    if model.device.type == "cpu":
        model.set_attn_implementation(BLOCKWISE)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (B, heads, T, d) queries to (B, T, heads, d)."""
    training = torch.is_grad_enabled() and query.shape[2] == key.shape[2] and not dropout and scaling is not None
    if not training or (attention_mask is not None and attention_mask.dtype != torch.bool):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **kwargs
        )
    return blockwise_attention(query, key, value, attention_mask, cast(float, scaling), sliding_window), None


def blockwise_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, window: int | None
) -> Tensor:
    """softmax(Q Kᵀ · scaling) V as (B, T, heads, d).

    Args:
        query: (B, heads, T, d).
        key, value: (B, key heads, T, d).
        mask: (B, 1, T, T), True where a query may look, causal and within `window`; None: causal alone.
    """
    output = _BlockwiseAttention.apply(query, key, value, mask, scaling, window)  # type: ignore[no-untyped-call]
    return cast(Tensor, output)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, window: int | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling, ctx.window = scaling, window
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)  # (B, T, heads, d)
        grouped = _grouped(output.transpose(1, 2), key)
        for block in _blocks(_grouped(query, key), key, mask, scaling, window):
            found = block.probabilities @ value[:, :, block.keys]  # (B, K, G * C, d)
            grouped[:, :, :, block.queries] = _by_head(found, block.count)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        upstream = _grouped(upstream.transpose(1, 2), key)
        query_gradient = torch.empty_like(query)
        grouped = _grouped(query_gradient, key)
        key_gradient, value_gradient = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        for block in _blocks(_grouped(query, key), key, mask, ctx.scaling, ctx.window):
            gradient = upstream[:, :, :, block.queries].flatten(2, 3)  # (B, K, G * C, d)
            value_gradient[:, :, block.keys] += block.probabilities.mT @ gradient
            of_probabilities = (gradient @ value[:, :, block.keys].mT).float()
            probabilities = block.probabilities.float()
            mean = (of_probabilities * probabilities).sum(-1, keepdim=True)
            of_scores = probabilities.mul_(of_probabilities.sub_(mean)).mul_(ctx.scaling).to(key.dtype)
            grouped[:, :, :, block.queries] = _by_head(of_scores @ key[:, :, block.keys], block.count)
            key_gradient[:, :, block.keys] += of_scores.mT @ block.rows
        return query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype), None, None, None


class _Block:
    """`count` (C) queries of each head, and the keys that one of them may see."""

    def __init__(self, rows: Tensor, probabilities: Tensor, queries: slice, keys: slice) -> None:
        self.rows = rows  # (B, K, G * C, d)
        self.probabilities = probabilities  # (B, K, G * C, S), in the rows' type
        self.queries = queries
        self.keys = keys
        self.count = queries.stop - queries.start


def _grouped(heads: Tensor, key: Tensor) -> Tensor:
    """(B, heads, T, d) as (B, key heads, heads of a key head, T, d), a view."""
    batch, _, length, width = heads.shape
    return heads.view(batch, key.shape[1], -1, length, width)


def _by_head(rows: Tensor, count: int) -> Tensor:
    """(B, K, G * C, n) as (B, K, G, C, n), a view."""
    return rows.view(*rows.shape[:2], -1, count, rows.shape[-1])


def _blocks(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, window: int | None) -> Iterator[_Block]:
    length = query.shape[3]
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        first = max(0, start - window + 1) if window else 0
        queries, keys = slice(start, end), slice(first, end)
        rows = query[:, :, :, queries].flatten(2, 3)
        scores = (rows @ key[:, :, keys].mT).float().mul_(scaling)  # (B, K, G * C, S)
        if mask is None:
            hidden = torch.ones(end - start, end - first, dtype=torch.bool).triu(start - first + 1)
        else:
            hidden = ~mask[:, :, None, queries, keys]
        _by_head(scores, end - start).masked_fill_(hidden, -torch.inf)
        yield _Block(rows, scores.softmax(-1).to(query.dtype), queries, keys)


AttentionInterface.register(BLOCKWISE, attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
