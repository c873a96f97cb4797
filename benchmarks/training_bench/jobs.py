"""What a child process is to do, and the variants of the peers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way to set a peer up. Weights are bf16 in all of them, and each step has the same packs.

    Attributes:
        micro_batches: gradient accumulation; 0 is one pack at a time.
        padding_free: TRL flattens a micro-batch into one row and keeps its documents apart by position ids, as in its
            own packing. Without it, the documents of a pack attend to each other (TRL's "wrapped" packing).
        attention: the implementation of transformers.
        liger: Liger's kernels (arXiv 2410.10989), which need a GPU.
    """

    autocast: bool = False
    checkpointing: bool = False
    padding_free: bool = False
    micro_batches: int = 1
    bf16_adapter: bool = False
    attention: str = "sdpa"
    liger: bool = False


TRL_VARIANTS = {
    "default": Variant(autocast=True, checkpointing=True),
    "no checkpointing": Variant(autocast=True),
    "bf16 without autocast": Variant(),
    "bf16 adapter": Variant(bf16_adapter=True),
    "bf16 adapter, padding-free": Variant(bf16_adapter=True, padding_free=True),
    "bf16 adapter, a pack at a time": Variant(bf16_adapter=True, micro_batches=0),
    "bf16 adapter, a pack at a time, padding-free": Variant(bf16_adapter=True, padding_free=True, micro_batches=0),
    "bf16 adapter, checkpointing": Variant(bf16_adapter=True, checkpointing=True),
    "bf16 adapter, eager": Variant(bf16_adapter=True, attention="eager"),
    "bf16 adapter, eager, padding-free": Variant(bf16_adapter=True, padding_free=True, attention="eager"),
    "bf16 adapter, eager, a pack at a time": Variant(bf16_adapter=True, micro_batches=0, attention="eager"),
}
GPU_VARIANTS = {
    "flash attention, Liger": Variant(bf16_adapter=True, padding_free=True, attention="flash_attention_2", liger=True),
}
"""Of TRL, in benchmarks/gpu.py only: what they need runs on no CPU."""
VARIANTS = {
    "trl": TRL_VARIANTS,
    "plain": {"unmodified": Variant(), "eager attention": Variant(attention="eager")},
}
"""By peer. lorachain has one variant."""
BEST = {
    "trl": {"00": "bf16 adapter", "02": "bf16 adapter, padding-free", "02-reasoning": "bf16 adapter, padding-free"},
    "plain": dict.fromkeys(("00", "02", "02-reasoning"), "unmodified"),
}
"""Used without --search (docs/benchmarks.md says what was measured)."""


@dataclass(frozen=True)
class Job:
    """The arguments of a child process."""

    contender: str
    workload: str
    """A file of `write_workload`."""
    model: str
    tokenizer: str
    device: str
    nf4: bool
    steps: int
    warmup: int
    rank: int
    targets: list[str]
    micro_batch_tokens: int
    checkpointing: bool
    seed: int = 0
    """Of the initial LoRA and the order of the packs."""
    variant: dict[str, Any] = field(default_factory=dict)
