"""Causal attention on a CPU: matrix products in blocks of queries.

PyTorch's fused kernel reaches a tenth of the machine's bf16 rate on a CPU at Gemma's head width of 256, and less still
for a single query; plain products reach two to three times that, and twenty times for a single query
(docs/benchmarks.md). They are taken block by block, so that keys that no query of a block may see cost nothing, and the
probabilities are computed again in the backward pass instead of kept (as in flash attention, Dao et al. 2022,
arXiv 2205.14135): nothing of size T x T is ever held. Query heads that share a key head are rows of one product.
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
    """On a CPU, turns the model to the attention of this module."""
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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (B, heads, T, d) queries to (B, T, heads, d)."""
    of_the_text = scaling is not None and getattr(module, "is_causal", False)
    if not of_the_text or dropout or (attention_mask is not None and attention_mask.dtype != torch.bool):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    return blockwise_attention(query, key, value, attention_mask, cast(float, scaling)), None


def blockwise_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """softmax(Q Kᵀ · scaling) V as (B, T, heads, d).

    Args:
        query: (B, heads, T, d).
        key, value: (B, key heads, S, d), S >= T: what comes before the queries, and they.
        mask: (B, 1, T, S), True where a query may look; None: at itself and all before. A query that may look nowhere
            (padding) gets a finite value without meaning.
    """
    output = _BlockwiseAttention.apply(query, key, value, mask, scaling)  # type: ignore[no-untyped-call]
    return cast(Tensor, output)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)  # (B, T, heads, d)
        grouped = _grouped(output.transpose(1, 2), key)
        for block in _blocks(_grouped(query * scaling, key), key, mask):
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
        for block in _blocks(_grouped(query * ctx.scaling, key), key, mask):
            gradient = upstream[:, :, :, block.queries].flatten(2, 3)  # (B, K, G * C, d)
            value_gradient[:, :, block.keys] += block.probabilities.mT @ gradient
            of_probabilities = (gradient @ value[:, :, block.keys].mT).float()
            probabilities = block.probabilities.float()
            mean = (of_probabilities * probabilities).sum(-1, keepdim=True)
            of_scores = probabilities.mul_(of_probabilities.sub_(mean)).to(key.dtype)
            grouped[:, :, :, block.queries] = _by_head(of_scores @ key[:, :, block.keys], block.count)
            key_gradient[:, :, block.keys] += of_scores.mT @ block.rows
        query_gradient *= ctx.scaling
        return query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype), None, None


class _Block:
    """`count` (C) queries of each head, and the keys (S') that one of them may see."""

    def __init__(self, rows: Tensor, probabilities: Tensor, queries: slice, keys: slice) -> None:
        self.rows = rows  # (B, K, G * C, d), scaled
        self.probabilities = probabilities  # (B, K, G * C, S'), in the rows' type
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


def _blocks(query: Tensor, key: Tensor, mask: Tensor | None) -> Iterator[_Block]:
    length, before = query.shape[3], key.shape[2] - query.shape[3]
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        queries = slice(start, end)
        if mask is None:
            keys, partly = slice(0, before + end), before + start
            hidden = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        else:
            keys, partly = _keys_seen(mask[:, :, queries])
            hidden = ~mask[:, :, None, queries, partly : keys.stop]
        rows = query[:, :, :, queries].flatten(2, 3)
        scores = rows @ key[:, :, keys].mT  # (B, K, G * C, S')
        # The least finite value, not -inf: a row of padding that sees nothing must not become NaN, which its value
        # would carry into other rows through products with zero.
        lowest = torch.finfo(scores.dtype).min
        _by_head(scores, end - start)[..., partly - keys.start :].masked_fill_(hidden, lowest)
        yield _Block(rows, scores.softmax(-1), queries, keys)


def _keys_seen(mask: Tensor) -> tuple[slice, int]:
    """Of a block's mask (B, 1, C, S): the keys from the first to the last that any query sees, and where among them the
    first stands that not all see."""
    any_sees, all_see = mask.flatten(0, 2).any(0), mask.flatten(0, 2).all(0)  # (S,)
    seen = any_sees.nonzero()
    keys = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, mask.shape[-1])
    partly = (~all_see[keys]).nonzero()
    return keys, keys.start + int(partly[0]) if len(partly) else keys.stop


AttentionInterface.register(BLOCKWISE, attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
