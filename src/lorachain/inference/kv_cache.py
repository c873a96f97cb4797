"""Keys and values of the sequences that are being generated: one slot each, the occupied ones always in front."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.masks import as_attention_mask
from lorachain.inference.prefix_cache import KeyValues, PrefixCache

_GROWTH = 64


class KvCache:
    """Room for `count` sequences behind a common prefix; `lengths[s]` ids of their own lie in slot s < `occupied`.

    Handed to the decoder as `past_key_values` in a step of one token a slot: writes each slot's new key behind its own,
    and returns prefix and all occupied cache, padded to the longest, which `step_masks` hides again.
    """

    def __init__(self, decoder: nn.Module, count: int, prefix_cache: PrefixCache | None) -> None:
        self.decoder = decoder
        self.config = cast(PretrainedConfig, decoder.config)
        self.prefix_cache = prefix_cache
        self.begin = prefix_cache.length if prefix_cache is not None else 0
        self.count = count
        self.lengths: list[int] = []
        self.layers: list[tuple[Tensor, Tensor]] = []  # each (count, kv heads, P' + room, head size)
        self.room = 0
        self._write_at = torch.zeros(0)

    @property
    def occupied(self) -> int:
        return len(self.lengths)

    def add(self, store: KeyValues, lengths: list[int]) -> None:
        """Puts prefilled sequences of `lengths` ids into the first free cache."""
        if not self.layers:
            self.layers = [self._empty(layer, key, value) for layer, (key, value) in enumerate(store.own)]
        self._reserve(max(lengths))
        for layer, own in enumerate(store.own):
            before = self._prefix_room(layer)
            for buffer, tensor in zip(self.layers[layer], own, strict=True):
                places = zip(store.begins, lengths, strict=True)
                for slot, ((line, begin), length) in enumerate(places, start=self.occupied):
                    buffer[slot, :, before : before + length] = tensor[line, :, begin : begin + length]
        self.lengths += lengths

    def drop(self, slot: int) -> None:
        """Frees a slot; the last occupied one moves into its place."""
        last = self.occupied - 1
        if slot != last:
            for pair in self.layers:
                for buffer in pair:
                    buffer[slot] = buffer[last]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def positions(self) -> Tensor:
        """Where each occupied slot's next id stands: (occupied, 1) int64, on the CPU."""
        return torch.tensor(self.lengths)[:, None] + self.begin

    def start_step(self, device: torch.device) -> dict[str, Tensor]:
        """Makes room for one more id a slot; the attention masks (occupied, 1, 1, P' + longest) by kind of layer."""
        longest = max(self.lengths) + 1
        self._reserve(longest)
        self._write_at = torch.tensor(self.lengths, device=device)
        position = self.positions().to(device)
        masks = {}
        for kind in ("full_attention", "sliding_attention"):
            first = self.prefix_cache.first[kind] if self.prefix_cache is not None else 0
            key = torch.arange(first, self.begin + longest, device=device)
            seen = key <= position  # (occupied, keys)
            if kind == "sliding_attention":
                seen &= position - key < self.config.sliding_window
            masks[kind] = as_attention_mask(self.decoder, seen[:, None, None])
        return masks

    def finish_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Key and value (occupied, kv heads, 1, head size) of the step's ids -> all that the step may see."""
        before, end = self._prefix_room(layer), self._prefix_room(layer) + max(self.lengths) + 1
        rows = torch.arange(self.occupied, device=key.device)
        for buffer, tensor in zip(self.layers[layer], (key, value), strict=True):
            buffer[rows, :, before + self._write_at] = tensor[:, :, 0]
        keys, values = self.layers[layer]
        return keys[: self.occupied, :, :end], values[: self.occupied, :, :end]

    def _prefix_room(self, layer: int) -> int:
        return 0 if self.prefix_cache is None else self.prefix_cache.layers[layer][0].shape[2]

    def _empty(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        made = []
        for number, like in enumerate((key, value)):
            buffer = like.new_zeros((self.count, like.shape[1], self._prefix_room(layer), like.shape[3]))
            if self.prefix_cache is not None:
                buffer += self.prefix_cache.layers[layer][number]
            made.append(buffer)
        return made[0], made[1]

    def _reserve(self, length: int) -> None:
        if length <= self.room:
            return
        more = length - self.room + _GROWTH
        self.layers = [(_grown(key, more), _grown(value, more)) for key, value in self.layers]
        self.room += more


def _grown(buffer: Tensor, more: int) -> Tensor:
    count, heads, _, size = buffer.shape
    return torch.cat([buffer, buffer.new_zeros((count, heads, more, size))], dim=2)
