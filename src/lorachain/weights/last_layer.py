"""The last decoder layer, computed only where its output is read.

What an exam reads of a prompt is often its last token. Up to the last layer every token is needed, as a key and a value
for those behind it; in the last layer all other queries, their output projections and their MLP feed nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import rotate_half


@contextmanager
def last_layer_only_at(
    decoder: nn.Module, lines: Tensor, places: Tensor, mask: Tensor, **attention_options: Tensor
) -> Iterator[None]:
    """Within it, the decoder's `last_hidden_state` is (B, R, H): the hidden states at `places` alone, up to rounding.

    Args:
        lines, places: (B, R) int64, which line and which of its tokens.
        mask: (B, 1, R, P + T), what those tokens see, in the form that the decoder's attention takes.
        attention_options: what the last layer's attention is handed instead of what the other layers' is.
    """
    layer: Any = cast(Any, decoder).layers[-1]

    def narrow(_: nn.Module, arguments: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
        (hidden,) = arguments  # (B, T, H)
        cos, sin = named["position_embeddings"]  # (B, T, d)
        key, value = _keys_and_values(layer, hidden, cos, sin)
        if named["past_key_values"] is not None:
            key, value = named["past_key_values"].update(key, value, layer.self_attn.layer_idx)
        return (hidden[lines, places],), named | {
            "position_embeddings": (cos[lines, places], sin[lines, places]),
            "position_ids": named["position_ids"][lines, places],
            "attention_mask": mask,
            "past_key_values": _Known(key, value),
            **attention_options,
        }

    handle = layer.register_forward_pre_hook(narrow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Known:
    """What the layer is handed as `past_key_values`: keys and values that have been computed already."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def update(self, *_: object) -> tuple[Tensor, Tensor]:
        return self.key, self.value


def _keys_and_values(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Of all tokens, (B, kv heads, T, d) each: as `Gemma3DecoderLayer` and `Gemma3Attention` compute them."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    key: Tensor = attention.k_norm(attention.k_proj(normed).view(shape).transpose(1, 2))
    value: Tensor = attention.v_proj(normed).view(shape).transpose(1, 2)
    turned: Tensor = rotate_half(key)  # type: ignore[no-untyped-call]
    return key * cos[:, None] + turned * sin[:, None], value
