"""Attention alone, forward and backward, in the shapes of Gemma 3: dense mask, `varlen_attn` and `flex_attention`."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_bench.records import Setting
from training_bench.counting import synchronize

SHAPES = {
    # (batch, query heads, key heads, length, head width): 4B at two lengths, 27B
    "full": [(4, 8, 4, 1024, 256), (2, 8, 4, 2048, 256), (2, 32, 16, 2048, 128)],
    "tiny": [(2, 2, 1, 64, 32)],
}
WINDOW = {"full": 1024, "tiny": 16}


def dense(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """As transformers computes packed rows: a mask (T, T) for every layer, and keys repeated for each query head."""
    length, group = query.shape[2], query.shape[1] // key.shape[1]
    position = torch.arange(length, device=query.device)
    distance = position[:, None] - position
    mask = (distance >= 0) & (distance < (window or length))
    keys, values = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def causal(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    """Without a mask, which only full layers of unpacked rows allow."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def varlen(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    batch, _, length, _ = query.shape
    bounds = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
    flat = [t.transpose(1, 2).flatten(0, 1) for t in (query, key, value)]
    size = (-1 if window is None else window - 1, 0)
    result = varlen_attn(*flat, bounds, bounds, length, length, window_size=size, enable_gqa=True)
    assert isinstance(result, Tensor)
    return result


def flex(query: Tensor, key: Tensor, value: Tensor, window: int | None, *, compiled: bool) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = query.shape[2]
    width = window or length

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (q - k < width)

    mask = create_block_mask(allowed, None, None, length, length, device=str(query.device))
    attend: Any = _compiled(flex_attention) if compiled else flex_attention
    result: Tensor = attend(query, key, value, block_mask=mask, enable_gqa=True)
    return result


_COMPILED: dict[str, Any] = {}


def _compiled(function: Any) -> Any:
    if "flex" not in _COMPILED:
        _COMPILED["flex"] = torch.compile(function, dynamic=False)
    return _COMPILED["flex"]


def milliseconds(run: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median over `repeats` after two runs that are not counted."""
    times = []
    for number in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if number > 1:
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def run(setting: Setting) -> None:
    device = torch.device(setting.device)
    contenders: dict[str, Callable[..., Tensor]] = {
        "causal, no mask": causal, "dense mask": dense, "varlen": varlen,
        "flex": partial(flex, compiled=not setting.tiny),
    }  # fmt: skip
    for shape in SHAPES[setting.size]:
        batch, heads, key_heads, length, width = shape
        for window in (None, WINDOW[setting.size]):
            for name, attention in contenders.items():
                torch.manual_seed(0)
                inputs = [
                    torch.randn(batch, n, length, width, device=device, dtype=torch.bfloat16, requires_grad=True)
                    for n in (heads, key_heads, key_heads)
                ]
                figures = {"shape": shape, "window": window, "attention": name}
                if name == "causal, no mask" and window is not None and window < length:
                    continue

                def both(attention: Any = attention, inputs: Any = inputs, window: Any = window) -> None:
                    attention(*inputs, window).sum().backward()

                def forward(attention: Any = attention, inputs: Any = inputs, window: Any = window) -> None:
                    with torch.no_grad():
                        attention(*inputs, window)

                try:
                    repeats = 3 if setting.tiny else 20
                    figures["forward_ms"] = milliseconds(forward, device, repeats)
                    figures["both_ms"] = milliseconds(both, device, repeats)
                except Exception as error:  # a kernel that this device or version does not have is a result too
                    figures["unavailable"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                setting.write("attention", **figures)
