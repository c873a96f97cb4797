"""What `lorachain fit` calculates and measures."""

from typing import ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record


class StageMemory(Record):
    """Bytes of the device's memory that a training stage needs at most with its settings."""

    stage: str
    tokens: int
    """Of the largest micro-batch that the settings allow, padding included."""
    recomputation: bool
    """Whether the backward pass recomputes the layers."""
    base: int
    lora: int
    """Factors, float32 masters, two moments, gradients."""
    activations: int
    """Kept for the backward pass."""
    working: int
    """Temporary: of the layer in progress, or of the loss."""

    @property
    def total(self) -> int:
        return self.base + self.lora + self.activations + self.working


class DiskNeed(Record):
    """Bytes on disk over a whole chain."""

    download: int
    """The public base; 0 where it is on this machine already."""
    merged_base: int
    adapters: int
    checkpoints: int

    @property
    def total(self) -> int:
        return self.download + self.merged_base + self.adapters + self.checkpoints


class CardSettings(Record):
    """Settings that decide how much memory training takes."""

    quantization: Literal["none", "nf4", "int8"]
    gradient_checkpointing: bool
    micro_batch_tokens: int
    max_length: dict[str, int]
    """By stage, where it is shorter than configured."""


class Rejected(Record):
    """Settings that were tried for the card before the recommended ones."""

    settings: CardSettings
    stage: str
    """The stage that needs most."""
    needed: int


class Measured(Record):
    """Two optimizer steps of a stage."""

    stage: str
    tokens: int
    """Per step."""
    device: str
    calculated: int
    """Bytes, as in `StageMemory.total`."""
    peak: int
    """Bytes: on a CPU over what the process had before the model was loaded."""
    tokens_per_second: float
    joules: float | None
    """Of the second step, where the device tells."""


class FitReport(Artifact):
    """The output of `lorachain fit --json`."""

    title: ClassVar[str] = "fit report"
    remedy: ClassVar[str] = "run lorachain fit again"

    model: str
    parameters: int
    lora_parameters: int
    stages: tuple[StageMemory, ...]
    disk: DiskNeed
    disk_free: int
    capacity: int | None
    """Bytes of the card; None where it is not known."""
    usable: int | None
    """Of them, what a stage may take."""
    recommended: CardSettings | None
    """Settings under which every stage fits; None where none does."""
    configuration: str | None
    """The same as a configuration file (TOML)."""
    rejected: tuple[Rejected, ...]
    measured: tuple[Measured, ...] = ()
