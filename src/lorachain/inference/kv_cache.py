"""Keys and values of the sequences that are being generated: one slot per sequence, occupied slots first."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.masks import as_attention_mask
from lorachain.inference.prefix_cache import KeyValues, PrefixCache

_GROWTH = 64
"""Ids that the buffers grow by, at least."""


class KvCache:
    """Up to `slots` sequences that continue from a common prefix.

    Slot s < `occupied` holds `lengths[s]` ids of its own after the prefix. In a decoding step (one id per slot) the
    decoder gets the cache as `past_key_values`: `update` writes the new key of each slot after the slot's own, and
    returns the prefix and the occupied slots, padded to the longest. The masks of `begin_step` hide the padding.
    """

    def __init__(self, decoder: nn.Module, slots: int, prefix_cache: PrefixCache | None) -> None:
        self.decoder = decoder
        self.config = cast(PretrainedConfig, decoder.config)
        self.prefix_cache = prefix_cache
        self.first_position = prefix_cache.length if prefix_cache is not None else 0
        self.slots = slots
        self.lengths: list[int] = []
        self.layers: list[tuple[Tensor, Tensor]] = []  # (slots, kv heads, P' + capacity, head size) each
        self.capacity = 0
        self._write_index = torch.zeros(0)

    @property
    def occupied(self) -> int:
        return len(self.lengths)

    def add(self, key_values: KeyValues, lengths: list[int]) -> None:
        """Puts prefilled sequences of `lengths` ids into the first free slots."""
        if not self.layers:
            self.layers = [self._empty(layer, key, value) for layer, (key, value) in enumerate(key_values.layers)]
        self._reserve(max(lengths))
        for layer, prefilled in enumerate(key_values.layers):
            prefix = self._prefix_length(layer)
            for buffer, tensor in zip(self.layers[layer], prefilled, strict=True):
                sequences = zip(key_values.offsets, lengths, strict=True)
                for slot, ((row, offset), length) in enumerate(sequences, start=self.occupied):
                    buffer[slot, :, prefix : prefix + length] = tensor[row, :, offset : offset + length]
        self.lengths += lengths

    def free(self, slot: int) -> None:
        """Frees a slot; the last occupied slot moves there."""
        last = self.occupied - 1
        if slot != last:
            for pair in self.layers:
                for buffer in pair:
                    buffer[slot] = buffer[last]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def positions(self) -> Tensor:
        """The position of each occupied slot's next id: (occupied, 1) int64, on the CPU."""
        return torch.tensor(self.lengths)[:, None] + self.first_position

    def begin_step(self, device: torch.device) -> dict[str, Tensor]:
        """Reserves one more id per slot; returns the attention masks (occupied, 1, 1, P' + longest) by layer type."""
        longest = max(self.lengths) + 1
        self._reserve(longest)
        self._write_index = torch.tensor(self.lengths, device=device)
        position = self.positions().to(device)
        masks = {}
        for kind in ("full_attention", "sliding_attention"):
            first = self.prefix_cache.first_position[kind] if self.prefix_cache is not None else 0
            key = torch.arange(first, self.first_position + longest, device=device)
            allowed = key <= position  # (occupied, keys)
            if kind == "sliding_attention":
                allowed &= position - key < self.config.sliding_window
            masks[kind] = as_attention_mask(self.decoder, allowed[:, None, None])
        return masks

    def finish_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Stores the step's keys and values (occupied, kv heads, 1, head size); returns all that the step attends to.

        Returns:
            Keys and values (occupied, kv heads, P' + longest, head size).
        """
        prefix = self._prefix_length(layer)
        end = prefix + max(self.lengths) + 1
        slots = torch.arange(self.occupied, device=key.device)
        for buffer, tensor in zip(self.layers[layer], (key, value), strict=True):
            buffer[slots, :, prefix + self._write_index] = tensor[:, :, 0]
        keys, values = self.layers[layer]
        return keys[: self.occupied, :, :end], values[: self.occupied, :, :end]

    def _prefix_length(self, layer: int) -> int:
        return 0 if self.prefix_cache is None else self.prefix_cache.layers[layer][0].shape[2]

    def _empty(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers of all slots that hold the prefix and nothing after it."""
        buffers = []
        for number, like in enumerate((key, value)):
            buffer = like.new_zeros((self.slots, like.shape[1], self._prefix_length(layer), like.shape[3]))
            if self.prefix_cache is not None:
                buffer += self.prefix_cache.layers[layer][number]
            buffers.append(buffer)
        return buffers[0], buffers[1]

    def _reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        more = length - self.capacity + _GROWTH
        self.layers = [(_grown(key, more), _grown(value, more)) for key, value in self.layers]
        self.capacity += more


def _grown(buffer: Tensor, more: int) -> Tensor:
    slots, heads, _, size = buffer.shape
    return torch.cat([buffer, buffer.new_zeros((slots, heads, more, size))], dim=2)
