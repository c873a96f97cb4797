"""Sampling that depends on a seed and a step alone: not on the batch, and not on the device.

The noise of a token is a hash of (seed, step, token), so no generator has a state, and a batch is drawn in one go
(counter-based random numbers: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A token is drawn by
the Gumbel-max trick: argmax(logit / T + Gumbel noise) has the distribution softmax(logit / T).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 8192
"""Tokens that are drawn among at a time. Another size gives other draws."""

_BITS = 64
_MASK = (1 << _BITS) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")."""
_LARGEST = 1 - 2**-24
"""The largest float32 below 1."""


def sample_tokens(
    hidden: Tensor, weight: Tensor, temperature: float, seeds: Sequence[int], steps: Sequence[int]
) -> Tensor:
    """One token per row from softmax(logits / temperature): hidden (N, H), weight (V, H) -> (N,) int64.

    A block of the vocabulary is drawn by its total probability, and then a token within it. That is the same
    distribution, and noise is computed for one block and not for 262,144 tokens. Logits are in the weights' type, as
    the model's own head computes them, and everything after them in float32.

    Args:
        seeds: one per row.
        steps: how many tokens each row has drawn before.

    Returns:
        -1 for a row whose logits are not finite.
    """
    blocks = torch.split(weight, BLOCK)
    logits = hidden.new_full((len(blocks), len(hidden), BLOCK), float("-inf"))  # (V / BLOCK, N, BLOCK)
    totals = []
    for block, of_block in zip(blocks, logits, strict=True):
        of_block[:, : len(block)] = hidden @ block.T
        totals.append(torch.logsumexp(of_block.float() / temperature, dim=-1))
    total = torch.stack(totals, dim=-1)  # (N, V / BLOCK)
    keys = _keys(seeds, steps).to(hidden.device)
    # Counters of blocks are negative, those of tokens are not.
    number = torch.arange(len(blocks), device=hidden.device).expand_as(total)
    chosen = (total + gumbel_noise(keys, -1 - number)).argmax(dim=-1)  # (N,)
    within = logits[chosen, torch.arange(len(hidden), device=hidden.device)].float() / temperature  # (N, BLOCK)
    token = torch.arange(BLOCK, device=hidden.device) + BLOCK * chosen[:, None]
    tokens = BLOCK * chosen + (within + gumbel_noise(keys, token)).argmax(dim=-1)
    return tokens.masked_fill(~total.logsumexp(dim=-1).isfinite(), -1)


def gumbel_noise(keys: Tensor, counters: Tensor) -> Tensor:
    """Standard Gumbel noise per counter: keys (N,) int64, counters (N, M) int64 -> (N, M) float32."""
    bits = _mixed(keys[:, None] + counters * _signed(_GOLDEN))
    # From the 32 upper bits, as -log(-log(1 - u)): near its largest values, which decide, the noise is precise.
    uniform = (_shifted(bits, 32).float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-uniform.clamp(max=_LARGEST)))


def _keys(seeds: Sequence[int], steps: Sequence[int]) -> Tensor:
    keys = [_mixed_int(_mixed_int(seed) + step * _GOLDEN) for seed, step in zip(seeds, steps, strict=True)]
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64)


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's output function; int64 products wrap."""
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: that of int64 copies the sign."""
    return (state >> bits) & ((1 << (_BITS - bits)) - 1)


def _mixed_int(state: int) -> int:
    state = (state + _GOLDEN) & _MASK
    state = ((state ^ (state >> 30)) * _FIRST) & _MASK
    state = ((state ^ (state >> 27)) * _SECOND) & _MASK
    return state ^ (state >> 31)


def _signed(number: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return number - (1 << _BITS) if number >> (_BITS - 1) else number
