"""The chain as a table: its stages in order, with everything that distinguishes one from another.

A new stage is one entry here and one file in `chain/tasks/`; a change of order is a change of this table.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lorachain.config import GENERAL_KINDS, ReplayConfig, SourceKind, StageConfig
from lorachain.errors import ConfigError, WorkspaceError

if TYPE_CHECKING:
    from lorachain.chain.tasks.base import LoadTask

Kind = Literal["init", "training", "merge", "reasoning"]


def _plain_text() -> "LoadTask":
    from lorachain.chain.tasks.plain_text import load_plain_text_task

    return load_plain_text_task


def _dictionary() -> "LoadTask":
    from lorachain.chain.tasks.dictionary import load_dictionary_task

    return load_dictionary_task


def _exam() -> "LoadTask":
    from lorachain.chain.tasks.exam import load_exam_task

    return load_exam_task


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the chain."""

    name: str
    """As commands, settings and files name it."""
    title: str
    kind: Kind
    parent: str | None
    """The stage whose adapter it starts from."""
    output: str
    """Its output directory below model/."""
    command: str
    """The command that runs it; several stages may share one."""
    task: Callable[[], "LoadTask"] | None = None
    """Imports what loads its data; `training` only. Called late: commands that read JSON must not import torch."""
    source: SourceKind | None = None
    """The kind of source that it trains on."""
    keeps: Literal["last", "best"] = "last"
    """Which epoch becomes the output: the last, or the one with the best dev accuracy."""
    settings: StageConfig | None = None
    """Default settings of `[stages.NAME]`."""
    subfolder: str = ""
    """Where in the output directory of the model its files are, if they are not all of it."""
    restart_from: str | None = None
    """With --from-base, the stage whose adapter it starts from instead of `parent`; None: not allowed."""

    @property
    def log(self) -> str:
        """The stage whose debug log it writes to."""
        return self.parent or "" if self.kind == "merge" else self.name.partition("_")[0]

    @property
    def label(self) -> str:
        """Name and title, for tables and messages."""
        return f"{self.name}: {self.title}"

    def load_task(self) -> "LoadTask":
        """What loads the stage's data.

        Raises:
            ValueError: it trains nothing.
        """
        if self.task is None:
            raise ValueError(f"stage {self.name} has no task")
        return self.task()


STAGES: tuple[Stage, ...] = (
    Stage(
        name="init",
        title="base + new LoRA",
        kind="init",
        parent=None,
        output="raw_lora_added",
        command="init",
    ),
    Stage(
        name="00",
        title="plain Korean text",
        kind="training",
        parent="init",
        output="00_trained",
        command="train 00",
        task=_plain_text,
        source="plain_text",
        settings=StageConfig(epochs=1, learning_rate=2e-4, batch_size=4, max_length=1024),
    ),
    Stage(
        name="01",
        title="medical dictionary",
        kind="training",
        parent="00",
        output="01_trained",
        command="train 01",
        task=_dictionary,
        source="dictionary",
        settings=StageConfig(
            epochs=3,
            learning_rate=2e-4,
            batch_size=16,
            max_length=512,
            forms=1,
            replay=ReplayConfig(plain_text=0.1),
        ),
    ),
    Stage(
        name="merge",
        title="01 merged + new LoRA",
        kind="merge",
        parent="01",
        output="01_another_lora_added",
        command="train 01",
    ),
    Stage(
        name="02_reasoning",
        title="written reasoning",
        kind="reasoning",
        parent="merge",
        output="02_training",
        subfolder="reasoning",
        command="write-reasoning",
        source="exam",
    ),
    Stage(
        name="02",
        title="KorMedMCQA",
        kind="training",
        parent="merge",
        output="02_trained",
        command="train 02",
        task=_exam,
        source="exam",
        keeps="best",
        settings=StageConfig(
            epochs=5,
            learning_rate=2e-4,
            batch_size=8,
            max_length=2048,
            json_share=0.1,
            replay=ReplayConfig(dictionary=0.1),
        ),
        restart_from="init",
    ),
)


@contextmanager
def stage_table(stages: tuple[Stage, ...]) -> Iterator[None]:
    """Makes `stages` the chain within a `with` block: each arm of an ablation is a chain of its own."""
    global STAGES
    before = STAGES
    STAGES = stages
    try:
        yield
    finally:
        STAGES = before


def chain_steps() -> tuple[Stage, ...]:
    """Everything that a run of the chain does, in order."""
    return STAGES


def chain_stages() -> tuple[Stage, ...]:
    """The stages that write an adapter, in order."""
    return tuple(stage for stage in STAGES if stage.kind != "reasoning")


def find_stage(name: str) -> Stage:
    """The stage called `name`.

    Raises:
        ConfigError: the chain has none of that name.
    """
    stage = next((stage for stage in chain_stages() if stage.name == name), None)
    if stage is None:
        raise ConfigError(f"unknown stage {name!r}; allowed: {', '.join(stage.name for stage in chain_stages())}")
    return stage


def stage_of_output(output: str) -> Stage:
    """The stage that writes the directory `output` below model/.

    Raises:
        WorkspaceError: none does.
    """
    stage = next((stage for stage in chain_stages() if stage.output == output), None)
    if stage is None:
        raise WorkspaceError(f"{output!r} is not an output directory of this chain")
    return stage


def find_training_stage(name: str) -> Stage:
    """The training stage called `name`.

    Raises:
        ConfigError: the chain trains no stage of that name.
    """
    stage = next((stage for stage in training_stages() if stage.name == name), None)
    if stage is None:
        allowed = ", ".join(stage.name for stage in training_stages())
        raise ConfigError(f"unknown stage {name!r}; allowed: {allowed}")
    return stage


def training_stages() -> tuple[Stage, ...]:
    return tuple(stage for stage in STAGES if stage.kind == "training")


def stages_of_command(command: str) -> tuple[Stage, ...]:
    """The stages that a command runs; `run` runs all of them."""
    return STAGES if command == "run" else tuple(stage for stage in STAGES if stage.command == command)


def find_reasoning_step() -> Stage:
    """The step that writes reasoning.

    Raises:
        ConfigError: the chain has none.
    """
    step = next((step for step in STAGES if step.kind == "reasoning"), None)
    if step is None:
        raise ConfigError("this chain has no step that writes reasoning")
    return step


def reasoning_for(stage: Stage) -> Stage | None:
    """The step that writes the reasoning which `stage` trains on, if the chain has one."""
    steps = [step for step in STAGES if step.kind == "reasoning" and step.output == f"{stage.name}_training"]
    return steps[0] if steps else None


def trained_on_reasoning(step: Stage) -> Stage:
    """The stage that trains on what `step` writes; see `reasoning_for`.

    Raises:
        ConfigError: the chain has none.
    """
    return find_training_stage(step.output.removesuffix("_training"))


def stages_after(stage: Stage) -> tuple[Stage, ...]:
    """The stages behind `stage` in the chain."""
    return STAGES[[other.name for other in STAGES].index(stage.name) + 1 :]


def replayable(stage: Stage) -> dict[SourceKind, Stage]:
    """The kinds of earlier data that `stage` can replay, each with the stage that trains on it (the latest)."""
    names = [other.name for other in STAGES]
    return {
        other.source: other
        for other in STAGES[: names.index(stage.name)]
        if other.kind == "training" and other.source is not None
    }


def check_replay(settings: Mapping[str, StageConfig]) -> None:
    """Refuses replay of what no earlier stage trains.

    Raises:
        ConfigError: names the setting, and what the stage can replay.
    """
    for stage in training_stages():
        config = settings.get(stage.name)
        shares = config.replay.shares if config is not None and config.replay is not None else {}
        allowed = (*replayable(stage), *GENERAL_KINDS)
        if wrong := [kind for kind in shares if kind not in allowed]:
            raise ConfigError(
                f"stages.{stage.name}.replay.{wrong[0]} is {shares[wrong[0]]:g}, but no stage before {stage.name} "
                f"trains it; stage {stage.name} can replay: {', '.join(allowed)}"
            )


def parent_of(stage: Stage) -> Stage:
    """The stage whose adapter `stage` starts from.

    Raises:
        ValueError: it has no parent.
    """
    if stage.parent is None:
        raise ValueError(f"stage {stage.name} has no parent")
    return find_stage(stage.parent)


def from_base(stage: Stage) -> Stage:
    """`stage` started straight from the base's new LoRA, for ablations; see `context.without_earlier_data`.

    Raises:
        ConfigError: the stage does not allow it.
    """
    if stage.restart_from is None:
        allowed = ", ".join(other.name for other in STAGES if other.restart_from)
        raise ConfigError(f"--from-base is not available for stage {stage.name}; allowed: {allowed}")
    return replace(stage, parent=stage.restart_from)


def default_settings() -> dict[str, StageConfig]:
    """The default settings of every training stage, by name; they replay only what an earlier stage trains."""
    return {
        stage.name: stage.settings.replaying_only((*replayable(stage), *GENERAL_KINDS))
        for stage in STAGES
        if stage.settings is not None
    }
