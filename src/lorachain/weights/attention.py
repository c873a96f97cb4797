"""Causal attention on a CPU: matrix products in blocks of queries.

PyTorch's fused kernel reaches a tenth of the machine's bf16 rate on a CPU at Gemma's head width of 256, and less for a
single query; plain products reach two to three times that, and twenty times for a single query (docs/benchmarks.md).
They are computed block by block, so that keys that no query of a block may attend to cost nothing, and the
probabilities are recomputed in the backward pass instead of stored (as in flash attention, Dao et al. 2022, arXiv
2205.14135): no T x T tensor is ever allocated. Query heads that share a key head are rows of one product.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
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
    """On a CPU, switches the model to the attention of this module."""
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
    is_text_attention = scaling is not None and getattr(module, "is_causal", False)
    if not is_text_attention or dropout or (attention_mask is not None and attention_mask.dtype != torch.bool):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    packed = kwargs.get("cu_seq_lens_q")
    bounds = None if packed is None else packed.tolist()
    return blockwise_attention(query, key, value, attention_mask, cast(float, scaling), bounds), None


def blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    bounds: Sequence[int] | None = None,
) -> Tensor:
    """softmax(Q Kᵀ · scaling) V as (B, T, heads, d).

    Args:
        query: (B, heads, T, d).
        key, value: (B, key heads, S, d), S >= T: those before the queries (a prefix), then the queries' own.
        mask: (B, 1, T, S), True where a query attends; None: to itself and everything before it. A query that attends
            to nothing (padding) gets a finite value without meaning.
        bounds: where each sequence of a packed row of queries starts, and the row's end (`cu_seq_lens_q` of
            transformers' attention interface). No block of queries contains two sequences; without a mask a query
            attends to the prefix and to its own sequence.
    """
    ends = [0, query.shape[2]] if bounds is None else bounds
    output = _BlockwiseAttention.apply(query, key, value, mask, scaling, ends)  # type: ignore[no-untyped-call]
    return cast(Tensor, output)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        bounds: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling, ctx.bounds = scaling, bounds
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)  # (B, T, heads, d)
        grouped = _grouped(output.transpose(1, 2), key)
        for block in _blocks(_grouped(query * scaling, key), key, mask, bounds):
            attended = block.probabilities @ value[:, :, block.keys]  # (B, K, G * C, d)
            grouped[:, :, :, block.queries] = _by_head(attended, block.count)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        upstream = _grouped(upstream.transpose(1, 2), key)
        query_gradient = torch.empty_like(query)
        grouped = _grouped(query_gradient, key)
        key_gradient, value_gradient = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        for block in _blocks(_grouped(query * ctx.scaling, key), key, mask, ctx.bounds):
            gradient = upstream[:, :, :, block.queries].flatten(2, 3)  # (B, K, G * C, d)
            value_gradient[:, :, block.keys] += block.probabilities.mT @ gradient
            probabilities_gradient = (gradient @ value[:, :, block.keys].mT).float()
            probabilities = block.probabilities.float()
            mean = (probabilities_gradient * probabilities).sum(-1, keepdim=True)
            scores_gradient = probabilities.mul_(probabilities_gradient.sub_(mean)).to(key.dtype)
            grouped[:, :, :, block.queries] = _by_head(scores_gradient @ key[:, :, block.keys], block.count)
            key_gradient[:, :, block.keys] += scores_gradient.mT @ block.rows
        query_gradient *= ctx.scaling
        return query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype), None, None, None


class _Block:
    """`count` (C) queries of each head, and the keys (S') that any of them attends to."""

    def __init__(self, rows: Tensor, probabilities: Tensor, queries: slice, keys: slice | Tensor) -> None:
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


def _blocks(query: Tensor, key: Tensor, mask: Tensor | None, bounds: Sequence[int]) -> Iterator[_Block]:
    prefix = key.shape[2] - query.shape[3]
    for first, last in pairwise(bounds):
        for start in range(first, last, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, last)
            queries = slice(start, end)
            if mask is None:
                keys = _prefix_and_own(prefix, slice(prefix + first, prefix + end), key.device)
                hidden = torch.ones(end - start, end - start, dtype=torch.bool, device=key.device).triu(1)
            else:
                keys, hidden = _attended_keys(mask[:, :, queries])
            rows = query[:, :, :, queries].flatten(2, 3)
            scores = rows @ key[:, :, keys].mT  # (B, K, G * C, S')
            # The lowest finite value, not -inf: a row of padding that attends to nothing must not become NaN, which
            # products with zero would carry into other rows.
            lowest = torch.finfo(scores.dtype).min
            by_head = _by_head(scores, end - start)
            by_head[..., by_head.shape[-1] - hidden.shape[-1] :].masked_fill_(hidden, lowest)
            yield _Block(rows, scores.softmax(-1), queries, keys)


def _prefix_and_own(prefix: int, own: slice, device: torch.device) -> slice | Tensor:
    """The indices of the first `prefix` keys and of the sequence's `own`, as a slice where there is no gap."""
    if prefix in (0, own.start):
        return slice(own.start - prefix, own.stop)
    return torch.cat([torch.arange(prefix, device=device), torch.arange(own.start, own.stop, device=device)])


def _attended_keys(mask: Tensor) -> tuple[slice | Tensor, Tensor]:
    """Of a block's mask (B, 1, C, S): the keys that any query attends to, and for the last of them which are hidden
    from which query, (B, 1, 1, C, S''). The first ones, which all queries attend to, need no mask.

    A slice, which is not copied, where few of the keys in between are not attended to.
    """
    any_query, all_queries = mask.flatten(0, 2).any(0), mask.flatten(0, 2).all(0)  # (S,)
    attended = any_query.nonzero()[:, 0]
    span = slice(int(attended[0]), int(attended[-1]) + 1) if len(attended) else slice(0, mask.shape[-1])
    keys = attended if 0 < len(attended) < (span.stop - span.start) * 8 // 9 else span
    partly = (~all_queries[keys]).nonzero()[:, 0]
    unmasked = int(partly[0]) if len(partly) else len(all_queries[keys])
    return keys, ~mask[:, None, :, :, keys][..., unmasked:]


AttentionInterface.register(BLOCKWISE, attention_forward)
AttentionMaskInterface.register(BLOCKWISE, sdpa_mask)
