"""Settings under which every stage of a chain fits a card, tried from the fastest on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lorachain.artifacts import CardSettings, Rejected, StageMemory
from lorachain.chain.stages import training_stages
from lorachain.config import ChainConfig, Quantization
from lorachain.errors import ConfigError
from lorachain.fit.estimate import Structure, stage_memory

_UNITS = {"gb": 10**9, "gib": 2**30, "g": 10**9, "tb": 10**12}
_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "nf4")
_CONTEXT_BYTES = 700_000_000
"""The CUDA context and the kernels' workspaces."""
_USABLE_SHARE = 0.92
"""Of the rest: the allocator's fragmentation takes some."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """`24GB` in bytes; a number alone is in GB.

    Raises:
        ConfigError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower() or "gb") if match else None
    if match is None or unit is None or not 0 < float(match[1]) * unit < 10**15:
        raise ConfigError(f"--gpu is {text!r}; give the card's memory, such as 24GB or 80GiB")
    return int(float(match[1]) * unit)


def usable_bytes(capacity: int) -> int:
    """What training may take of a card."""
    return max(0, int((capacity - _CONTEXT_BYTES) * _USABLE_SHARE))


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set for a card."""

    settings: CardSettings | None
    """None where nothing fits."""
    largest: StageMemory
    """The stage that needs most with them, or with the last that were tried."""
    rejected: list[Rejected]

    def toml(self, model: str, capacity: int) -> str | None:
        """The settings as a configuration file."""
        if self.settings is None:
            return None
        lines = [
            f"# {model} on {capacity / 1e9:.0f} GB: at most {self.largest.total / 1e9:.1f} GB, in stage "
            f"{self.largest.stage} (calculated by lorachain fit).",
            f'quantization = "{self.settings.quantization}"',
            "",
            "[training]",
            f"gradient_checkpointing = {str(self.settings.gradient_checkpointing).lower()}",
            f"micro_batch_tokens = {self.settings.micro_batch_tokens}",
        ]
        for stage, length in self.settings.max_length.items():
            lines += ["", f"[stages.{stage}]", f"max_length = {length}"]
        return "\n".join(lines) + "\n"


def recommend(structure: Structure, config: ChainConfig, capacity: int) -> Recommendation:
    """The first settings under which all stages fit, and those before them with the stage that needs most."""
    usable = usable_bytes(capacity)
    rejected: list[Rejected] = []
    for settings in _candidates(config):
        changed = with_settings(config, settings)
        needs = [
            stage_memory(structure, changed, stage, device_type="cuda", capacity=None) for stage in training_stages()
        ]
        largest = max(needs, key=lambda need: need.total)
        if largest.total <= usable:
            return Recommendation(settings, largest, rejected)
        rejected.append(Rejected(settings=settings, stage=largest.stage, needed=largest.total))
    return Recommendation(None, largest, rejected)


def _candidates(config: ChainConfig) -> Iterator[CardSettings]:
    """Recomputation costs a third of the speed, quantization more than that, shorter sequences lose data."""
    tokens = config.training.micro_batch_tokens
    longest = max(settings.max_length for settings in config.stages.values())
    for quantization in _QUANTIZATIONS:
        yield _settings(quantization, recompute=False, tokens=tokens)
        for fewer in sorted({tokens, max(tokens // 2, min(tokens, longest))}, reverse=True):
            yield _settings(quantization, recompute=True, tokens=fewer)
    for shorter in (1024, 512):
        limits = {name: shorter for name, stage in config.stages.items() if stage.max_length > shorter}
        if limits:
            yield _settings("nf4", recompute=True, tokens=min(tokens, shorter), max_length=limits)


def _settings(
    quantization: Quantization, *, recompute: bool, tokens: int, max_length: dict[str, int] | None = None
) -> CardSettings:
    return CardSettings(
        quantization=quantization,
        gradient_checkpointing=recompute,
        micro_batch_tokens=tokens,
        max_length=max_length or {},
    )


def with_settings(config: ChainConfig, settings: CardSettings) -> ChainConfig:
    """The configuration with some settings replaced."""
    changed = settings.model_dump(include={"gradient_checkpointing", "micro_batch_tokens"})
    stages = {
        name: stage.model_copy(update={"max_length": settings.max_length.get(name, stage.max_length)})
        for name, stage in config.stages.items()
    }
    training = config.training.model_copy(update=changed)
    return config.model_copy(update={"quantization": settings.quantization, "training": training, "stages": stages})
