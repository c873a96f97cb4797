"""How many operators a training step of MedGemma 4B launches outside attention, and how many bytes they move.

Counted on the meta device: shapes without values. Two layers are counted, and a step is calculated from them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorachain.training.fused_layers import use_fused_layers
from lorachain.training.loss import supervised_cross_entropy
from lorachain.training.recompute_layers import use_recompute_layers
from lorachain.weights.load import text_decoder
from lorachain.weights.lora import add_new_lora

TOKENS, LAYERS, VOCABULARY, HIDDEN = 4096, 34, 262_208, 2560
ATTENTION_LAUNCHES = 7
"""Of `torch.nn.attention.varlen` for a layer: two in the forward pass and five in the backward pass."""
_PRODUCTS = ("aten.mm", "aten.addmm", "aten.bmm")
_GATHERS = ("aten.index",)  # what they read is as large as their result
_NOTHING = ("aten.empty", "aten.new_empty", "aten.detach", "aten._unsafe_view")


@dataclass
class Counts:
    launches: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes read and written, without those of matrix products."""


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).rsplit(".", 1)[0]
        schema = func._schema
        is_view = bool(schema.returns) and schema.returns[0].alias_info and not schema.returns[0].alias_info.is_write
        if is_view or name.startswith(_NOTHING):
            return result
        self.counts.launches[name] += 1
        if not name.startswith(_PRODUCTS):
            pairs = zip(schema.arguments, args, strict=False)
            in_place = [value for argument, value in pairs if argument.alias_info and argument.alias_info.is_write]
            written = [t for t in tree_leaves(result) if not any(t is other for other in in_place)]
            read = written if name in _GATHERS else tree_leaves((args, kwargs))
            tensors = [t for t in (*read, *in_place, *written) if isinstance(t, Tensor)]
            self.counts.moved[name] += sum(t.numel() * t.itemsize for t in tensors)
        return result


class _NoAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def _no_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    return _NoAttention.apply(query, key, value), None  # type: ignore[no-untyped-call]


def counts_of_layers(layers: int, switch: Callable[[nn.Module], None]) -> Counts:
    """Forward and backward pass of so many layers with a LoRA of rank 16 on all linear layers, all bf16."""
    config = Gemma3TextConfig(
        hidden_size=HIDDEN, intermediate_size=10_240, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, vocab_size=VOCABULARY, sliding_window=1024,
    )  # fmt: skip
    with torch.device("meta"):
        model = add_new_lora(
            Gemma3ForCausalLM(config), base_path="b", rank=16, alpha=32, dropout=0.0, use_rslora=False,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], seed=0,
        ).to("meta", torch.bfloat16)  # fmt: skip
        decoder: Any = text_decoder(model.train())
        switch(decoder)
        hidden = torch.empty(1, TOKENS, HIDDEN, dtype=torch.bfloat16)
        cos = torch.empty(1, TOKENS, 256, dtype=torch.bfloat16)
        decoder.config._attn_implementation = "shapes_only"
        attention = patch.dict(ALL_ATTENTION_FUNCTIONS._local_mapping, shapes_only=_no_attention)
        with attention, Counting() as counting:
            for layer in decoder.layers:
                hidden = layer(hidden, position_embeddings=(cos, cos), attention_mask=None)
            hidden.backward(torch.empty_like(hidden))  # type: ignore[no-untyped-call]
    counts: Counts = counting.counts
    return counts


def counts_of_loss(*, fused: bool) -> Counts:
    """All tokens supervised, as in stage 00."""
    with torch.device("meta"):
        hidden = torch.empty(TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
        head = torch.empty(VOCABULARY, HIDDEN, dtype=torch.bfloat16)
        targets = torch.empty(TOKENS, dtype=torch.int64)
        with Counting() as counting:
            supervised_cross_entropy(hidden, head, targets, fused=fused).backward()  # type: ignore[no-untyped-call]
    counts: Counts = counting.counts
    return counts


def step(switch: Callable[[nn.Module], None], *, fused: bool) -> tuple[int, float]:
    """Launches and gigabytes of a step of all layers: the first layer, whose input needs no gradient, and others."""
    one, two, loss = counts_of_layers(1, switch), counts_of_layers(2, switch), counts_of_loss(fused=fused)

    def total(pick: Callable[[Counts], Counter[str]]) -> int:
        first, both = pick(one).total(), pick(two).total()
        return first + (LAYERS - 1) * (both - first) + pick(loss).total()

    launches = total(lambda counts: counts.launches) + LAYERS * ATTENTION_LAUNCHES
    return launches, total(lambda counts: counts.moved) / 1e9


def test_a_step_of_fused_layers_stays_within_its_budget() -> None:
    launches, gigabytes = step(use_fused_layers, fused=True)
    assert launches <= 3_000
    assert gigabytes <= 60


def test_layers_that_recompute_need_several_times_as_much() -> None:
    """Otherwise the count above would miss something."""
    launches, gigabytes = step(use_recompute_layers, fused=False)
    assert launches >= 7_500
    assert gigabytes >= 250


def test_the_loss_reads_and_writes_each_logit_once() -> None:
    counts = counts_of_loss(fused=True)
    logits = TOKENS * VOCABULARY * 2
    assert counts.moved["lorachain.online_softmax_"] == pytest.approx(2 * logits, rel=1e-3)
    assert counts.launches["lorachain.online_softmax_"] == 2 * 8
    assert counts.moved.total() < 2 * logits + 3e9
