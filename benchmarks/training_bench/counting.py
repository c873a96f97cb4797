"""Floating-point operations that a training step needs, and the machine's peak rate of matrix products.

Counted per optimizer step, one multiply-add as two operations:

    body       4 · P_body       per token     (2 forward, 2 for the activations' gradient; frozen weights need none)
    attention  12 · heads · d   per layer and (query, key) pair that the mask allows     (4 forward, 8 backward)
    head       4 · V · H        per supervised token     (2 for the logits, 2 for the hidden state's gradient)

P_body: weights of the decoder's linear layers. The LoRA's products (6 · P_lora per token, about 5 % of the body at rank
16), norms, rotary embeddings, softmax and the optimizer are left out, so the share of the peak is a lower bound.
"""

import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from lorachain.tokens import TokenRow
from lorachain.weights.load import head_weight, text_decoder


def attended_pairs(length: int, window: int | None) -> int:
    """(query, key) pairs of a causal sequence; a query attends to at most `window` keys, its own included."""
    if window is None or window >= length:
        return length * (length + 1) // 2
    return window * (window + 1) // 2 + (length - window) * window


def model_sizes(model: PreTrainedModel) -> dict[str, int | list[int | None]]:
    """The sizes of a base model (before a LoRA is added) that `step_flops` needs."""
    decoder = text_decoder(model)
    config = model.config.get_text_config()
    # Not numel(): a 4-bit weight is stored packed.
    body = sum(m.in_features * m.out_features for m in decoder.modules() if isinstance(m, nn.Linear))
    windows = [config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types]
    vocabulary, hidden = head_weight(model).shape
    return {
        "body": body,
        "attention_width": config.num_attention_heads * config.head_dim,
        "windows": windows,
        "head": vocabulary * hidden,
    }


def step_flops(rows: Iterable[TokenRow], sizes: dict) -> int:  # type: ignore[type-arg]
    """Operations for these sequences, by the formula above."""
    total = 0
    for row in rows:
        pairs = sum(attended_pairs(len(row), window) for window in sizes["windows"])
        total += 4 * sizes["body"] * len(row) + 12 * sizes["attention_width"] * pairs
        total += 4 * sizes["head"] * row.supervised
    return total


def matrix_peak(device: torch.device, size: int, repeats: int = 5) -> float:
    """The best rate of square bf16 products of `size`, half and a quarter of it, in operations per second."""
    best = 0.0
    for n in (size, size // 2, size // 4):
        a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
        F.linear(a, b)
        for _ in range(repeats):
            synchronize(device)
            start = time.perf_counter()
            F.linear(a, b)
            synchronize(device)
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    """Waits for the queued work of an accelerator, so that the clock is read when it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
