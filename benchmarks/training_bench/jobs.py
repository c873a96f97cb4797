"""What a child process is told to do, and the ways in which the peers can be set up."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way to set a peer up. Weights are bf16 in all of them, and each step sees the same rows.

    `micro_batches`: gradient accumulation; 0 is a line at a time. `padding_free` (TRL) flattens a micro-batch into one
    row whose documents are kept apart by position ids, as TRL's own packing does; without it, the documents of a pack
    see each other (TRL's "wrapped" packing). `attention`: transformers' implementation.
    """

    autocast: bool = False
    checkpointing: bool = False
    padding_free: bool = False
    micro_batches: int = 1
    bf16_adapter: bool = False
    attention: str = "sdpa"


TRL_VARIANTS = {
    "default": Variant(autocast=True, checkpointing=True),
    "no checkpointing": Variant(autocast=True),
    "bf16 without autocast": Variant(),
    "bf16 adapter": Variant(bf16_adapter=True),
    "bf16 adapter, padding-free": Variant(bf16_adapter=True, padding_free=True),
    "bf16 adapter, a line at a time": Variant(bf16_adapter=True, micro_batches=0),
    "bf16 adapter, a line at a time, padding-free": Variant(bf16_adapter=True, padding_free=True, micro_batches=0),
    "bf16 adapter, checkpointing": Variant(bf16_adapter=True, checkpointing=True),
    "bf16 adapter, eager": Variant(bf16_adapter=True, attention="eager"),
    "bf16 adapter, eager, padding-free": Variant(bf16_adapter=True, padding_free=True, attention="eager"),
    "bf16 adapter, eager, a line at a time": Variant(bf16_adapter=True, micro_batches=0, attention="eager"),
}
VARIANTS = {
    "trl": TRL_VARIANTS,
    "plain": {"as it comes": Variant(), "eager attention": Variant(attention="eager")},
}
"""Of each peer. lorachain has one way."""
BEST = {
    "trl": {"00": "bf16 adapter", "02": "bf16 adapter, padding-free", "02-reasoning": "bf16 adapter, padding-free"},
    "plain": dict.fromkeys(("00", "02", "02-reasoning"), "as it comes"),
}
"""Used where no --search is asked for (docs/benchmarks.md says what was measured)."""


@dataclass(frozen=True)
class Job:
    """All that a child process is told."""

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
    """Of the LoRA's first numbers and the order of the lines."""
    variant: dict[str, Any] = field(default_factory=dict)
