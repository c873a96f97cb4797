"""Attention on a GPU without a mask: the sequences of a packed row are told to the kernel by their bounds.

`torch.nn.attention.varlen` (FlashAttention-2, Dao 2023, arXiv 2307.08691) in bf16 and fp16 on devices from compute
capability 8.0 on, otherwise `flex_attention` (Dong et al. 2024, arXiv 2412.05496), compiled. Key heads are not
repeated, sliding windows are an argument of the kernel, and nothing of size T x T is allocated.
"""

import importlib.util
import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lorachain.weights.segments import Segments, equal_rows

VARLEN = "lorachain_varlen"
FLEX = "lorachain_flex"
FLEX_BLOCK = 128

Kernel = Callable[[Tensor, Tensor, Tensor, Segments, float, int | None], Tensor]
"""(queries (Q, heads, d), keys and values (K, key heads, d), segments, scaling, window) -> (Q, heads, d)."""


def gpu_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """The name of the implementation for a CUDA device; None: that of PyTorch (no CUDA, or a device without Triton)."""
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    flash = torch.backends.cuda.is_flash_attention_available()
    if flash and capability >= (8, 0) and dtype in (torch.bfloat16, torch.float16):
        return VARLEN
    return FLEX if capability >= (7, 0) and importlib.util.find_spec("triton") is not None else None


def attend(
    kernel: Kernel,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (B, heads, T, d) queries to (B, T, heads, d).

    `segments` among the options has Segments by layer type; without it, each batch row is a sequence. Where there is a
    mask (a step of generation, padding on the left), PyTorch's attention takes it.
    """
    if attention_mask is not None or dropout or scaling is None or not getattr(module, "is_causal", False):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    batch, heads, length, width = query.shape
    window = cast(int | None, kwargs.get("sliding_window"))
    if kwargs.get("segments") is None:
        segments = equal_rows(batch, length, key.shape[2], query.device)
    else:
        segments = kwargs["segments"]["full_attention" if window is None else "sliding_attention"]
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    if segments.key_index is not None:
        key, value = key[segments.key_index], value[segments.key_index]
    output = kernel(query, key, value, segments, scaling, window)
    return output.view(batch, length, heads, width), None


def varlen_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, window: int | None
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn`, which aligns queries with the end of their keys."""
    from torch.nn.attention import varlen  # imports the compiler: not before it is needed

    options: dict[str, Any] = {}
    if query.shape[1] != key.shape[1]:
        if _takes_grouped_heads(varlen.varlen_attn):
            options["enable_gqa"] = True
        else:  # PyTorch 2.11
            key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for t in (key, value))
    output = varlen.varlen_attn(
        query,
        key,
        value,
        segments.query_bounds,
        segments.key_bounds,
        segments.longest_queries,
        segments.longest_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **options,
    )
    return cast(Tensor, output)


@cache
def _takes_grouped_heads(function: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(function).parameters


def flex_kernel(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float, window: int | None
) -> Tensor:
    """`flex_attention`, compiled where a GPU computes it."""
    if window not in segments.block_masks:
        segments.block_masks[window] = block_mask(segments, window, query.shape[0], key.shape[0])
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # (1, heads, length, d)
    output = _flex(query.is_cuda)(
        query, key, value, block_mask=segments.block_masks[window], scale=scaling, enable_gqa=True
    )
    return cast(Tensor, output)[0].transpose(0, 1)


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable[..., Any], torch.compile(flex_attention) if compiled else flex_attention)


def block_mask(segments: Segments, window: int | None, queries: int, keys: int) -> Any:
    """A BlockMask of the segments: which blocks of keys each block of queries attends to, wholly or in part.

    Each query attends to consecutive keys, from `first` to `last`, and both rise with the query. So the blocks follow
    from the first and the last query of a block, and no mask of queries and keys is made.
    """
    from torch.nn.attention.flex_attention import BlockMask

    first, last = attended_keys(segments, window, queries)

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[query]) & (key <= last[query])

    device = first.device
    starts = torch.arange(0, queries, FLEX_BLOCK, device=device)
    ends = (starts + FLEX_BLOCK - 1).clamp(max=queries - 1)
    block = torch.arange(0, keys, FLEX_BLOCK, device=device)  # the first key of each block
    block_end = (block + FLEX_BLOCK - 1).clamp(max=keys - 1)
    attended = (block_end >= first[starts, None]) & (block <= last[ends, None])  # (query blocks, key blocks)
    wholly = (block >= first[ends, None]) & (block + FLEX_BLOCK - 1 <= last[starts, None])
    return BlockMask.from_kv_blocks(
        *_in_order(attended & ~wholly),
        *_in_order(wholly),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=mask,
        seq_lengths=(queries, keys),
    )


def attended_keys(segments: Segments, window: int | None, queries: int) -> tuple[Tensor, Tensor]:
    """The first and the last key that each query attends to, (Q,) int64 each, as indices in the runs' keys."""
    index = torch.arange(queries, device=segments.query_bounds.device)
    run = torch.searchsorted(segments.query_bounds, index, right=True) - 1
    query_bounds, key_bounds = segments.query_bounds.long(), segments.key_bounds.long()
    last = key_bounds[run + 1] - (query_bounds[run + 1] - index)
    first = key_bounds[run]
    return (first if window is None else torch.maximum(first, last - window + 1)), last


def _in_order(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of a table of blocks (query blocks, key blocks): how many of each row are true, and their columns first."""
    columns = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], columns.int()[None, None]


def mask_unless_causal(
    *, q_length: int, kv_length: int, allow_is_causal_skip: bool = True, **kwargs: Any
) -> Tensor | None:
    """transformers' mask interface: none where a row is one sequence, whatever its length and the layer's window."""
    if kwargs.get("attention_mask") is None and allow_is_causal_skip and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, allow_is_causal_skip=allow_is_causal_skip, **kwargs)


for _name, _kernel in ((VARLEN, varlen_kernel), (FLEX, flex_kernel)):
    AttentionInterface.register(_name, partial(attend, _kernel))
    AttentionMaskInterface.register(_name, mask_unless_causal)
