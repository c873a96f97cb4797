"""The options that the chain's commands share, and the context that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorachain.errors import ConfigError

if TYPE_CHECKING:
    from lorachain.chain.context import ChainContext

Model = Annotated[str, typer.Option("--model", help="Short name in model/raw/model_paths.json.")]
WorkspaceDir = Annotated[Path, typer.Option("--workspace", help="Folder that holds model/.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file over the chain's defaults.")]
PlainText = Annotated[list[str] | None, typer.Option("--plain-text", help="Path, hub id or `sample`; repeatable.")]
Dictionary = Annotated[list[str] | None, typer.Option("--dictionary", help="Path, hub id or `sample`; repeatable.")]
Exam = Annotated[list[str] | None, typer.Option("--exam", help="Path, hub id or `sample`; repeatable.")]
MaxSamples = Annotated[int | None, typer.Option("--max-samples", help="At most so many records of a stage.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Examples (packs in 00) an optimizer step.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Tokens a sequence (a pack in 00).")]
Rank = Annotated[
    int | None, typer.Option("--rank", help="Rank of a LoRA made anew (init, end of 01); alpha becomes twice it.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps.")]
Seed = Annotated[int | None, typer.Option("--seed")]
Yes = Annotated[bool, typer.Option("--yes", help="Replace stale finished work without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print settings, reads and writes; load no weights.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Count malformed rows and go on.")]
SaveEvery = Annotated[
    str | None, typer.Option("--save-every", help="Between checkpoints: minutes (15), or steps (200steps).")
]
Epochs = Annotated[int | None, typer.Option("--epochs")]


@dataclass(frozen=True, slots=True)
class Common:
    """What was given on the command line; None is not given."""

    model: str
    workspace: Path
    config: Path | None = None
    plain_text: list[str] | None = None
    dictionary: list[str] | None = None
    exam: list[str] | None = None
    max_samples: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    max_length: int | None = None
    rank: int | None = None
    device: str | None = None
    seed: int | None = None
    yes: bool = False
    skip_bad_rows: bool = False
    save_every: str | None = None


def build_context(common: Common, stages: Sequence[str], epochs: Sequence[int] | None = None) -> "ChainContext":
    """Configuration, model entry, device and screen.

    Args:
        stages: those that the stage options (batch size and so on) apply to.
        epochs: one number a stage.

    Raises:
        ConfigError, ModelError, DeviceError: for what they name.
    """
    from lorachain.chain.context import ChainContext
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.config import load_config
    from lorachain.registry import find_entry
    from lorachain.report.console import ConsoleReporter
    from lorachain.training.distributed import join_processes
    from lorachain.weights.load import resolve_device
    from lorachain.workspace import open_workspace

    quiet_libraries()
    workspace = open_workspace(common.workspace)
    entry = find_entry(workspace, common.model)
    overrides = _overrides(common, stages, epochs)
    given = {
        "plain_text": common.plain_text,
        "dictionary": common.dictionary,
        "exam": common.exam,
    }
    overrides["sources"] = {entry.sources: {name: value for name, value in given.items() if value}}
    config = load_config(common.config, overrides)
    processes, device = join_processes(resolve_device(config.device), quantized=config.quantization != "none")
    return ChainContext(
        workspace=workspace,
        model=common.model,
        entry=entry,
        config=config,
        device=device,
        reporter=ConsoleReporter(quiet=not processes.main),
        processes=processes,
        skip_bad_rows=common.skip_bad_rows,
        confirm=lambda question: common.yes or _ask(question),
    )


def _overrides(common: Common, stages: Sequence[str], epochs: Sequence[int] | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    per_stage = {
        "max_samples": common.max_samples,
        "learning_rate": common.learning_rate,
        "batch_size": common.batch_size,
        "max_length": common.max_length,
    }
    settings = {name: value for name, value in per_stage.items() if value is not None}
    overrides["stages"] = {stage: dict(settings) for stage in stages}
    for stage, count in zip(stages, epochs or [], strict=False):
        overrides["stages"][stage]["epochs"] = count
    if common.rank is not None:
        overrides["lora"] = {"rank": common.rank, "alpha": 2 * common.rank}
    if common.save_every is not None:
        overrides["training"] = _save_every(common.save_every)
    overrides |= {k: v for k, v in (("device", common.device), ("seed", common.seed)) if v is not None}
    return overrides


def _save_every(text: str) -> dict[str, Any]:
    """`15` as minutes, `200steps` as optimizer steps.

    Raises:
        ConfigError: it is neither.
    """
    steps = text.removesuffix("steps").strip()
    try:
        return {"save_every_minutes": float(text)} if steps == text.strip() else {"save_every_steps": int(steps)}
    except ValueError as error:
        raise ConfigError(
            f"--save-every is {text!r}; give minutes, such as 15, or optimizer steps, such as 200steps"
        ) from error


def parse_epochs(text: str | None) -> list[int] | None:
    """`1,3,5` as the epochs of stages 00, 01 and 02.

    Raises:
        ConfigError: it is not three whole numbers.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().lstrip("-").isdecimal() for part in parts):
        raise ConfigError(f"--epochs is {text!r}; give one number for each of the stages 00, 01 and 02, such as 1,3,5")
    return [int(part) for part in parts]


def _ask(question: str) -> bool:
    import sys

    return sys.stdin.isatty() and typer.confirm(question)
