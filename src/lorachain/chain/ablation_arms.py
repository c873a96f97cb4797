"""The arms of an ablation: ways of training the same data, each a variant of the stage table. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lorachain.chain.stages import Stage, find_stage
from lorachain.config import GENERAL_KINDS, ChainConfig, ReplayConfig, StageConfig
from lorachain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training."""

    name: str
    title: str
    table: tuple[Stage, ...]
    """The chain that it is."""
    scored: str
    """The stage whose model is scored."""
    mixed: tuple[str, ...] = ()
    """Stages that are not run, whose data are mixed into the last one."""

    @property
    def runs(self) -> tuple[Stage, ...]:
        """The stages that are run, in order."""
        return tuple(stage for stage in self.table if stage.name not in self.mixed)

    @property
    def trained(self) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.runs if stage.kind == "training")


def all_arms() -> tuple[Arm, ...]:
    """Every arm, the chain first.

    Raises:
        ConfigError: the chain does not have the stages that the arms are made of.
    """
    init, text, dictionary, merge, exam = (find_stage(name) for name in ("init", "00", "01", "merge", "02"))
    on_base = replace(exam, parent="init")
    return (
        Arm("chain", "00, 01, merged, a new LoRA for 02", (init, text, dictionary, merge, exam), "02"),
        Arm("one-lora", "one LoRA through 00, 01, 02", (init, text, dictionary, replace(exam, parent="01")), "02"),
        Arm("joint", "one LoRA on the mixture of all data", (init, text, dictionary, on_base), "02", ("00", "01")),
        Arm("only-02", "02 alone", (init, on_base), "02"),
        Arm("without-00", "the chain without 00", (init, replace(dictionary, parent="init"), merge, exam), "02"),
        Arm("merge-only", "00, 01, merged, nothing after it", (init, text, dictionary, merge), "merge"),
    )


def find_arms(names: str | None) -> tuple[Arm, ...]:
    """The arms of a comma-separated list, in the order of the table; None: all.

    Raises:
        ConfigError: one of them is unknown.
    """
    arms = all_arms()
    if names is None:
        return arms
    wanted = [name.strip() for name in names.split(",")]
    allowed = [arm.name for arm in arms]
    if unknown := [name for name in wanted if name not in allowed]:
        raise ConfigError(f"--arms: unknown arm {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return tuple(arm for arm in arms if arm.name in wanted)


@dataclass(frozen=True, slots=True)
class NaturalRun:
    """What the chain trains in a stage with its own settings."""

    supervised_tokens: int
    steps: int


def arm_config(
    arm: Arm, config: ChainConfig, *, budget: int, natural: Mapping[str, NaturalRun], seed: int
) -> ChainConfig:
    """The settings of one arm and seed: `budget` supervised tokens in all.

    They are divided among the stages that it trains in proportion to `natural`, what the chain trains in each. A
    mixture has as many optimizer steps as the chain, so its steps have fewer examples of the stage that the others are
    mixed into. Each arm keeps the last epoch of its last stage, not the best one: a choice among epochs by the dev
    split would favor the arms with more of them. Within the arm almost nothing is validated: it is scored at its end.
    """
    total = sum(natural[stage.name].supervised_tokens for stage in arm.trained)
    stages: dict[str, StageConfig] = dict(config.stages)
    sources = [*GENERAL_KINDS, *(stage.source for stage in arm.trained if stage.source)]
    for stage in arm.trained:
        settings = stages[stage.name].replaying_only(sources)  # none of stages that the arm does not have
        tokens = max(1, round(budget * natural[stage.name].supervised_tokens / total))
        stages[stage.name] = settings.model_copy(update={"supervised_tokens": tokens})
    if arm.mixed:
        mixture_stage = arm.trained[-1].name
        runs = {name: natural[name] for name in (*arm.mixed, mixture_stage)}
        mixture = sum(run.supervised_tokens for run in runs.values())
        shares = {str(find_stage(name).source): runs[name].supervised_tokens / mixture for name in arm.mixed}
        batch = stages[mixture_stage].batch_size * runs[mixture_stage].steps / sum(run.steps for run in runs.values())
        mixed = {"replay": ReplayConfig(**shares, repeat=True), "batch_size": max(1, round(batch))}
        stages[mixture_stage] = stages[mixture_stage].model_copy(update=mixed)
    last = arm.trained[-1].name
    stages[last] = stages[last].model_copy(update={"keep": "last"})
    least = {"max_questions": 1, "exact_match_entries": 1, "explained_questions": 1}
    validation = config.validation.model_copy(update=least)
    # Neither ledger nor gates: an arm that loses something is scored as it is.
    ledger = config.ledger.model_copy(update={"measure": False})
    update = {"seed": seed, "stages": stages, "validation": validation, "ledger": ledger, "gates": {}}
    return config.model_copy(update=update)
