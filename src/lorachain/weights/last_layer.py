"""The last decoder layer, computed only where its output is used.

An exam often uses only a prompt's last token. Up to the last layer every token is needed, as key and value for those
after it; in the last layer the other queries, their output projections and their MLP are not used by anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import rotate_half


@contextmanager
def last_layer_only_at(
    decoder: nn.Module, rows: Tensor, positions: Tensor, mask: Tensor | None, **attention_options: Any
) -> Iterator[None]:
    """Within it, the decoder's `last_hidden_state` is (B, R, H): the hidden states at `positions` only, up to rounding.

    Args:
        rows, positions: (B, R) int64, which row of the batch and which of its tokens.
        mask: (B, 1, R, P + T), what those tokens attend to, in the form that the decoder's attention takes; None
            where `attention_options` say it.
        attention_options: replace the options that the other layers' attention gets, in the last layer.
    """
    layer: Any = cast(Any, decoder).layers[-1]

    def narrow(_: nn.Module, arguments: tuple[Tensor], named: dict[str, Any]) -> tuple[tuple[Tensor], dict[str, Any]]:
        (hidden,) = arguments  # (B, T, H)
        cos, sin = named["position_embeddings"]  # (B, T, d)
        key, value = _keys_and_values(layer, hidden, cos, sin)
        if named["past_key_values"] is not None:
            key, value = named["past_key_values"].update(key, value, layer.self_attn.layer_idx)
        return (hidden[rows, positions],), named | {
            "position_embeddings": (cos[rows, positions], sin[rows, positions]),
            "position_ids": named["position_ids"][rows, positions],
            "attention_mask": mask,
            "past_key_values": _ComputedCache(key, value),
            **attention_options,
        }

    handle = layer.register_forward_pre_hook(narrow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _ComputedCache:
    """Passed to the layer as `past_key_values`: keys and values that are computed already."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def update(self, *_: object) -> tuple[Tensor, Tensor]:
        return self.key, self.value


def _keys_and_values(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of all tokens, (B, kv heads, T, d) each, as `Gemma3DecoderLayer` and `Gemma3Attention` compute
    them."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    key: Tensor = attention.k_norm(attention.k_proj(normed).view(shape).transpose(1, 2))
    value: Tensor = attention.v_proj(normed).view(shape).transpose(1, 2)
    rotated: Tensor = rotate_half(key)  # type: ignore[no-untyped-call]
    return key * cos[:, None] + rotated * sin[:, None], value
