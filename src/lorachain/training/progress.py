"""What a training run was asked for, and how far it has come."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to walk; what to walk over is `BatchSchedule`."""

    learning_rate: float
    warmup_ratio: float
    scheduler: str
    weight_decay: float
    max_grad_norm: float
    seed: int
    gradient_checkpointing: bool | Literal["auto"]
    """`auto`: where a micro-batch's activations would not fit."""
    save_every_minutes: float
    keep_checkpoints: int
    save_every_steps: int = 0
    """0: by time and at the end of an epoch only."""


@dataclass(slots=True)
class Progress:
    """What a run has done so far, over all of its interruptions."""

    step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Mean negative log-likelihood of a supervised token, in nats, one a step."""
