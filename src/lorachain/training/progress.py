"""The settings of a training run, and its progress."""

from dataclasses import dataclass, field
from typing import Literal

from lorachain.artifacts import LayerKind, MemoryChange
from lorachain.config import Kernels


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """How pairs of a right and a wrong answer are trained."""

    beta: float
    """How far the model may move from the reference: the larger, the less."""
    weight: float
    """Of the preference loss, beside the likelihood of all right answers at weight 1."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train; what to train on is `BatchSchedule`."""

    learning_rate: float
    warmup_ratio: float
    scheduler: str
    weight_decay: float
    max_grad_norm: float
    seed: int
    gradient_checkpointing: bool | Literal["auto"]
    """Whether the backward pass recomputes the activations; `auto`: where a micro-batch's would not fit in memory."""
    save_every_minutes: float
    keep_checkpoints: int
    save_every_steps: int = 0
    """0: by time and at the end of each epoch only."""
    kernels: Kernels = "auto"
    """Whether fused layers are used where they can be (training/layers.py)."""
    compile: bool = False
    deterministic: bool = False
    """Whether only kernels are used that add in a fixed order (training/determinism.py)."""
    preference: PreferenceSettings | None = None
    """None: no pairs are trained."""


@dataclass(slots=True)
class Progress:
    """What a run has done so far, over all of its interruptions."""

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Per step: mean negative log-likelihood of a supervised token, in nats, plus the loss of pairs where some are
    trained."""
    layers: LayerKind = "recomputed"
    """Which implementation of the decoder layers this start trains with."""
    memory_changes: list[MemoryChange] = field(default_factory=list)
    """What was changed where a step did not fit in memory."""
