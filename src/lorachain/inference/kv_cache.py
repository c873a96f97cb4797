"""Keys and values of the sequences that are being generated: one slot per sequence, occupied slots first."""

from collections.abc import Sequence
from typing import cast

import psutil
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lorachain.inference.masks import as_attention_mask
from lorachain.inference.prefix_cache import KeyValues
from lorachain.memory import free_memory
from lorachain.weights.load import is_sharded, text_decoder

_GROWTH = 64
"""Ids that the buffers grow by, at least."""
_BYTES_ON_CPU = 2 * 2**30
_KINDS = ("full_attention", "sliding_attention")


class KvCache:
    """Up to `slots` sequences.

    Slot s < `occupied` holds `lengths[s]` ids. A layer with sliding attention keeps only those that a later id attends
    to: its buffers are rings in which position p is at index p mod window, and before they are full that is p itself.
    In a decoding step (one id per slot) the decoder gets the cache as `past_key_values`: `update` writes the new key of
    each slot, and returns the occupied slots, padded to the longest. The masks of `begin_step` hide the padding.
    """

    def __init__(self, decoder: nn.Module, slots: int) -> None:
        self.decoder = decoder
        self.config = cast(PretrainedConfig, decoder.config)
        self.slots = slots
        self.lengths: list[int] = []
        self.layers: list[tuple[Tensor, Tensor]] = []  # (slots, kv heads, capacity, head size) each
        self.capacity = 0
        self._write_index: dict[str, Tensor] = {}

    @property
    def occupied(self) -> int:
        return len(self.lengths)

    def add(self, key_values: KeyValues, paths: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Puts prefilled sequences into the first free slots.

        Args:
            paths: per sequence the tree that it was prefilled in, and the indices of its ids in that tree.
        """
        cached = key_values.prefix_cache.length if key_values.prefix_cache is not None else 0
        lengths = [cached + len(indices) for _, indices in paths]
        if not self.layers:
            self.layers = [(self._empty(key), self._empty(value)) for key, value in key_values.layers]
        self._reserve(max(lengths))
        device = key_values.layers[0][0].device
        cells = {kind: self._cells(key_values, paths, cached, kind).to(device) for kind in _KINDS}
        new = slice(self.occupied, self.occupied + len(paths))
        for layer, prefilled in enumerate(key_values.layers):
            kind = self._kind(layer)
            rows, columns, slots, indices = cells[kind]
            for number, tensor in enumerate(prefilled):
                buffer = self.layers[layer][number]
                if key_values.prefix_cache is not None:
                    prefix = key_values.prefix_cache.layers[layer][number]
                    positions = torch.arange(cached - prefix.shape[2], cached, device=device)
                    buffer[new, :, self._index(positions, kind)] = prefix.expand(len(paths), -1, -1, -1)
                buffer[slots, :, indices] = tensor[rows, :, columns]
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
        return torch.tensor(self.lengths)[:, None]

    def begin_step(self, device: torch.device) -> dict[str, Tensor]:
        """Reserves one more id per slot; returns the attention masks (occupied, 1, 1, keys) by layer type."""
        self._reserve(max(self.lengths) + 1)
        position = self.positions().to(device)
        masks = {}
        for kind in _KINDS:
            index = torch.arange(self._width(kind), device=device)
            held = index.expand(self.occupied, -1)  # the position that is held at each index
            if kind == "sliding_attention":
                held = position - (position - index) % self._window
            allowed = (held >= 0) & (held <= position)  # (occupied, keys)
            masks[kind] = as_attention_mask(self.decoder, allowed[:, None, None])
            self._write_index[kind] = self._index(position[:, 0], kind)
        return masks

    def finish_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Stores the step's keys and values (occupied, kv heads, 1, head size); returns all that the step attends to.

        Returns:
            Keys and values (occupied, kv heads, keys, head size).
        """
        kind = self._kind(layer)
        slots = torch.arange(self.occupied, device=key.device)
        for buffer, tensor in zip(self.layers[layer], (key, value), strict=True):
            buffer[slots, :, self._write_index[kind]] = tensor[:, :, 0]
        keys, values = self.layers[layer]
        width = self._width(kind)
        return keys[: self.occupied, :, :width], values[: self.occupied, :, :width]

    @property
    def _window(self) -> int:
        return cast(int, self.config.sliding_window)

    def _kind(self, layer: int) -> str:
        return cast(str, self.config.layer_types[layer])

    def _index(self, positions: Tensor, kind: str) -> Tensor:
        """Where positions are kept in the buffers of a layer type."""
        return positions % self._window if kind == "sliding_attention" else positions

    def _width(self, kind: str) -> int:
        """How many indices a step attends to: those of the longest slot."""
        longest = max(self.lengths) + 1
        return min(longest, self._window) if kind == "sliding_attention" else longest

    def _cells(
        self, key_values: KeyValues, paths: Sequence[tuple[int, Sequence[int]]], cached: int, kind: str
    ) -> Tensor:
        """Of every prefilled id that a layer type keeps: batch row and column, slot and index there, (4, N) int64."""
        parts = []
        for slot, (tree, indices) in enumerate(paths, start=self.occupied):
            row, offset = key_values.offsets[tree]
            kept = len(indices)
            if kind == "sliding_attention":
                kept = min(kept, self._window)  # at each index one id: the order of writes to an index is not defined
            columns = torch.tensor(indices[len(indices) - kept :]) + offset
            positions = torch.arange(cached + len(indices) - kept, cached + len(indices))
            parts.append(
                torch.stack(
                    [
                        torch.full_like(columns, row),
                        columns,
                        torch.full_like(columns, slot),
                        self._index(positions, kind),
                    ]
                )
            )
        return torch.cat(parts, dim=1)

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros((self.slots, like.shape[1], 0, like.shape[3]))

    def _reserve(self, length: int) -> None:
        if length <= self.capacity:
            return
        self.capacity = length + _GROWTH
        for layer in range(len(self.layers)):  # one after another: the old and the new buffers of one layer at a time
            kind = self._kind(layer)
            size = min(self.capacity, self._window) if kind == "sliding_attention" else self.capacity
            key, value = self.layers[layer]
            self.layers[layer] = _grown(key, size), _grown(value, size)


def sequence_bytes(decoder: nn.Module, tokens: int) -> int:
    """Bytes of the keys and values of one sequence of `tokens` ids in a KvCache."""
    config = cast(PretrainedConfig, decoder.config)
    size = next(p.element_size() for p in decoder.parameters() if p.is_floating_point())
    per_token = 2 * config.num_key_value_heads * config.head_dim * size
    reserved = tokens + _GROWTH
    return sum(
        per_token * (min(reserved, config.sliding_window) if kind == "sliding_attention" else reserved)
        for kind in config.layer_types
    )


def _grown(buffer: Tensor, size: int) -> Tensor:
    slots, heads, held, width = buffer.shape
    if size == held:
        return buffer
    return torch.cat([buffer, buffer.new_zeros((slots, heads, size - held, width))], dim=2)


def default_cache_bytes(model: nn.Module) -> int:
    """Bytes for keys and values: on a CPU 2 GiB, or an eighth of the memory where that is less; on an accelerator a
    quarter of its memory, or half of what is free there where that is less.

    On a CPU the same for every run, whatever else is running: the number of sequences in a batch decides how its sums
    are rounded. What is free on an accelerator differs from process to process: a sharded model, whose processes must
    take the same steps, gets the quarter.
    """
    device = next(text_decoder(model).parameters()).device
    if device.type != "cuda":
        total: int = psutil.virtual_memory().total
        return min(_BYTES_ON_CPU, total // 8)
    share: int = torch.cuda.get_device_properties(device).total_memory // 4
    if is_sharded(model):
        return share
    return min(share, free_memory(device) // 2)
