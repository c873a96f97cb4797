"""What a run of the chain is about: a model, a workspace, settings, and where messages go. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

from lorachain.chain.stages import Stage, check_replay, default_settings, reasoning_for
from lorachain.config import GENERAL_KINDS, ChainConfig, Sources, StageConfig
from lorachain.config_reading import read_config
from lorachain.data.read_options import options_of
from lorachain.data.sources import with_defaults
from lorachain.errors import ConfigError
from lorachain.registry import ModelEntry
from lorachain.workspace import Workspace


class Bar(Protocol):
    """A progress bar."""

    def __call__(self, done: int, note: str = "") -> None: ...


class Reporter(Protocol):
    """Where messages and progress go."""

    def message(self, text: str) -> None: ...
    def bar(self, title: str, total: int) -> AbstractContextManager[Bar]: ...


@dataclass(frozen=True, slots=True)
class ChainContext:
    """One model's chain in one workspace."""

    workspace: Workspace
    model: str
    entry: ModelEntry
    config: ChainConfig
    reporter: Reporter
    skip_bad_rows: bool = False
    confirm: Callable[[str], bool] = lambda question: False
    """Called before finished work is replaced."""
    ask: Callable[[str], bool] = lambda question: False
    """Asks at the terminal about what lorachain did not write: False without one, and `--yes` is no answer to it."""
    accept_harm: bool = False
    """Publish a step although a gate stops it."""
    options_for: Callable[[str], tuple[str, ...]] = lambda command: ()
    """The options of the command line that a message repeats where it proposes `command`."""

    @property
    def sources(self) -> Sources:
        """The sources with how they are read (`[reading]`)."""
        named = self.config.sources[self.entry.sources]
        read: dict[str, list[str]] = {}
        for kind, settings in self.config.reading.items():
            defaults = options_of(settings.options(), f"reading.{kind}")
            read[kind] = [with_defaults(name, defaults) for name in getattr(named, kind)]
        return named.model_copy(update=read)

    def output(self, stage: Stage) -> Path:
        return self.workspace.output(stage.output, self.model) / stage.subfolder

    def command(self, command: str) -> str:
        """What to type to run a command on this chain, quoted for a shell."""
        place = [] if str(self.workspace.root) == "." else ["--workspace", str(self.workspace.root)]
        words = ["--model", self.model, *place, *self.options_for(command)]
        return " ".join([f"lorachain {command}", *map(quote, words)])


def load_config(user_file: Path | None = None, overrides: Iterable[Mapping[str, Any]] = ()) -> ChainConfig:
    """The settings of the chain: defaults, then `user_file`, then each of `overrides` (nested like the file).

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is not allowed.
    """
    config = read_config(default_settings(), user_file, overrides)
    check_replay(config.stages)
    return config


def without_earlier_data(context: ChainContext, stages: Sequence[Stage]) -> ChainContext:
    """Settings in which `stages` replay nothing that earlier stages train: one started from the base had none."""
    settings = context.config.stages
    changed = {stage.name: settings[stage.name].replaying_only(GENERAL_KINDS) for stage in stages}
    return replace(context, config=context.config.model_copy(update={"stages": {**settings, **changed}}))


def stage_config(config: ChainConfig, stage: Stage) -> StageConfig:
    return config.stages[stage.name]


def writes_reasoning(context: ChainContext) -> bool:
    """Whether a run of the chain writes reasoning, and stage 02 trains on it."""
    enabled = context.config.reasoning.enabled
    return context.entry.sources == "hub" if enabled == "auto" else enabled


def writing_settings(config: ChainConfig) -> dict[str, Any]:
    """The settings that decide which written reasoning is kept, as reasoning_report.json records them."""
    screen = {key: value for key, value in config.data.deciding().get("contamination", {}).items() if key != "action"}
    return {**config.reasoning.deciding(), **({"contamination": screen} if screen else {})}


def training_sources(context: ChainContext, stage: Stage) -> list[str]:
    """What a training stage reads: its sources, and the reasoning that was written for it."""
    sources = stage_sources(context.sources, stage)
    step = reasoning_for(stage)
    if step is None or context.config.reasoning.enabled is False:
        return sources
    written = context.output(step)
    return [*sources, str(written / "exam")] if (written / "exam").is_dir() else sources


def stage_sources(sources: Sources, stage: Stage) -> list[str]:
    """The sources that a training stage trains on."""
    if stage.source is None:
        raise ConfigError(f"stage {stage.name} has no source")
    named: list[str] = getattr(sources, stage.source)
    return named


def deciding_settings(config: ChainConfig, entry: ModelEntry, stage: Stage) -> dict[str, Any]:
    """The settings that a training stage's result depends on, as its training_info.json records them."""
    return {
        "stage": stage_config(config, stage).model_dump(),
        "training": config.training.deciding(),
        "validation": config.validation.deciding(),
        "dtype": config.dtype,
        "quantization": config.quantization,
        "answer_style": entry.answer_style,
        **({"data": gates} if (gates := config.data.deciding()) else {}),
    }
