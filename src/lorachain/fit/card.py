"""Settings under which every stage of a chain fits a card, tried from the fastest on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lorachain.artifacts import Rejected, StageMemory
from lorachain.chain.stages import training_stages
from lorachain.config import ChainConfig
from lorachain.errors import ConfigError
from lorachain.fit.estimate import Structure, stage_memory

Settings = dict[str, str | int | bool]
_UNITS = {"gb": 10**9, "gib": 2**30, "g": 10**9, "tb": 10**12}
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

    settings: Settings | None
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
            f'quantization = "{self.settings["quantization"]}"',
            "",
            "[training]",
        ]
        for key, value in self.settings.items():
            if key.startswith("training."):
                lines.append(f"{key.removeprefix('training.')} = {str(value).lower()}")
            elif key.startswith("stages."):
                _, stage, name = key.split(".")
                lines += ["", f"[stages.{stage}]", f"{name} = {value}"]
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


def _candidates(config: ChainConfig) -> Iterator[Settings]:
    """Recomputation costs a third of the speed, quantization more than that, shorter sequences lose data."""
    tokens = config.training.micro_batch_tokens
    longest = max(settings.max_length for settings in config.stages.values())
    for quantization in ("none", "nf4"):
        kept: Settings = {"quantization": quantization}
        yield {**kept, "training.gradient_checkpointing": False, "training.micro_batch_tokens": tokens}
        for fewer in sorted({tokens, max(tokens // 2, min(tokens, longest))}, reverse=True):
            yield {**kept, "training.gradient_checkpointing": True, "training.micro_batch_tokens": fewer}
    for shorter in (1024, 512):
        if shorter < longest:
            limits: Settings = {
                f"stages.{name}.max_length": shorter
                for name, settings in config.stages.items()
                if settings.max_length > shorter
            }
            yield {
                "quantization": "nf4",
                "training.gradient_checkpointing": True,
                "training.micro_batch_tokens": min(tokens, shorter),
                **limits,
            }


def with_settings(config: ChainConfig, settings: Settings) -> ChainConfig:
    """The configuration with some settings replaced."""
    training = config.training.model_copy(
        update={key.removeprefix("training."): value for key, value in settings.items() if key.startswith("training.")}
    )
    stages = {
        name: stage.model_copy(update={"max_length": settings.get(f"stages.{name}.max_length", stage.max_length)})
        for name, stage in config.stages.items()
    }
    update = {"quantization": settings["quantization"], "training": training, "stages": stages}
    return config.model_copy(update=update)
