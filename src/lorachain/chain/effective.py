"""Which settings have an effect on which stages: a setting without one is refused instead of ignored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorachain.chain.stages import Stage, chain_stages, reasoning_for
from lorachain.config import SourceSet
from lorachain.errors import ConfigError

_COMPUTING = ("device", "dtype", "quantization")
_MEASURING = ("ledger", "gates")


def check_effective(overrides: Mapping[str, Any], stages: Sequence[Stage], source_set: SourceSet, command: str) -> None:
    """Refuses settings of the command line that change nothing about `stages`.

    Raises:
        ConfigError: names the setting, the reason, and the commands that it belongs to.
    """
    for key in dotted_keys(overrides):
        if not is_effective(key, stages, source_set):
            raise ConfigError(f"{key} has no effect on `lorachain {command}`: {_reason(key, source_set)}")


def is_effective(key: str, stages: Sequence[Stage], source_set: SourceSet) -> bool:
    """Whether the setting with this dotted key changes anything about `stages`."""
    prefixes = _effective_prefixes(stages, source_set)
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _effective_prefixes(stages: Sequence[Stage], source_set: SourceSet) -> Iterator[str]:
    yield "seed"
    if any(stage.kind in ("init", "merge") for stage in stages):
        yield "lora"
    if any(stage.kind == "merge" for stage in stages):
        yield from (*_COMPUTING, *_MEASURING)
    for stage in stages:
        if stage.kind == "reasoning":
            yield from (*_COMPUTING, "reasoning", f"sources.{source_set}.exam", f"sources.{source_set}.dictionary")
        if stage.kind == "training":
            yield from (*_COMPUTING, *_MEASURING, "training", "validation", f"stages.{stage.name}")
            yield from (f"sources.{source_set}.{kind}" for kind in (stage.source, "exam", "instruct", "known"))
            if reasoning_for(stage) is not None:
                yield "reasoning.enabled"  # whether it trains on what was written


def _reason(key: str, source_set: SourceSet) -> str:
    section, _, rest = key.partition(".")
    if section == "lora":
        commands = dict.fromkeys(stage.command for stage in chain_stages() if stage.kind in ("init", "merge"))
        return f"it applies to a new LoRA, which {' and '.join(f'`{name}`' for name in commands)} create"
    if section == "stages":
        name = rest.partition(".")[0]
        return f"it belongs to stage {name}"
    if section == "sources":
        named, _, kind = rest.partition(".")
        if named != source_set:
            return f"this model reads the source set {source_set!r}"
        return f"no stage of this command reads {kind}"
    if section == "name":
        return "it is only a label; set it in a --config file"
    if section == "reasoning":
        return "it applies to written reasoning, which `run` and `write-reasoning` create"
    return "it only affects training"


def dotted_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted key of every value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
