"""The options that commands share, and the context they make."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lorachain.errors import ConfigError
from lorachain.redaction import printable

if TYPE_CHECKING:
    from lorachain.chain.context import ChainContext
    from lorachain.chain.stages import Stage
    from lorachain.config import SourceSet
    from lorachain.inference.engines.select import EngineOptions

DEFAULT_MODEL = "gemma-3-270m"
HERE = Path(".")
MEASURING_KEYS = ("ledger", "gates", "device")
"""Settings that `ledger` and `dial` take; the others are those that the chain was made with."""
Model = Annotated[str, typer.Option("--model", help="Short name in model/raw/model_paths.json.")]
WorkspaceDir = Annotated[Path, typer.Option("--workspace", help="Directory that contains model/.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file over the defaults, or an installed example: quick_look.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as lora.rank=32 (TOML value); repeatable."),
]
PlainText = Annotated[list[str] | None, typer.Option("--plain-text", help="Path, hub id or `sample`; repeatable.")]
Dictionary = Annotated[list[str] | None, typer.Option("--dictionary", help="Path, hub id or `sample`; repeatable.")]
Exam = Annotated[list[str] | None, typer.Option("--exam", help="Path, hub id or `sample`; repeatable.")]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Of the text files named with this command: cp949, euc-kr, utf-16.")
]
Sheet = Annotated[str | None, typer.Option("--sheet", help="Of the workbooks named with this command: name or number.")]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="FIELD=COLUMN,…", help="Such as term=용어,definition=뜻.")
]
MaxSamples = Annotated[int | None, typer.Option("--max-samples", help="At most so many records per stage.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Examples (packs in 00) per optimizer step.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Tokens per sequence (per pack in 00).")]
Rank = Annotated[int | None, typer.Option("--rank", help="Rank of a new LoRA (lora.rank).")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps.")]
Seed = Annotated[int | None, typer.Option("--seed")]
Yes = Annotated[bool, typer.Option("--yes", help="Replace stale finished work without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print settings, reads and writes; load no weights.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Count malformed rows and continue.")]
SaveEvery = Annotated[
    str | None, typer.Option("--save-every", help="Between checkpoints: minutes (15), or steps (200steps).")
]
BaseUrl = Annotated[str | None, typer.Option("--base-url", help="Of the server, such as http://localhost:8000/v1.")]
Completions = Annotated[
    bool, typer.Option("--completions", help="Send the server plain text instead of a chat message.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests to the server at a time.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds for an answer of the server.")]
AcceptHarm = Annotated[bool, typer.Option("--accept-harm", help="Publish a step although a gate stops it.")]
LedgerText = Annotated[
    list[str] | None,
    typer.Option("--ledger-text", help="A text of yours whose perplexity is measured too; repeatable."),
]
Epochs = Annotated[int | None, typer.Option("--epochs")]


@dataclass(frozen=True, slots=True)
class Common:
    """The options given on the command line; None is not given."""

    model: str = DEFAULT_MODEL
    workspace: Path = HERE
    config: Path | None = None
    set: list[str] | None = None
    plain_text: list[str] | None = None
    dictionary: list[str] | None = None
    exam: list[str] | None = None
    epochs: str | int | None = None
    max_samples: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    max_length: int | None = None
    rank: int | None = None
    device: str | None = None
    seed: int | None = None
    save_every: str | None = None
    skip_bad_rows: bool = False
    yes: bool = False
    from_base: bool = False
    ledger_text: list[str] | None = None
    accept_harm: bool = False
    encoding: str | None = None
    sheet: str | None = None
    columns: str | None = None

    def as_arguments(self) -> tuple[str, ...]:
        """The options but for model and workspace, as they would be typed again."""
        arguments: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("model", "workspace", "yes", "accept_harm") or value is None or value is False:
                continue
            name = f"--{field.name.replace('_', '-')}"
            for item in value if isinstance(value, list) else [value]:
                arguments += [name] if item is True else [name, str(item)]
        return tuple(arguments)


def _arguments_for(common: Common, given_to: str, command: str, source_set: "SourceSet") -> tuple[str, ...]:
    """The options that a message repeats where it proposes `command`.

    All of them for the command that they were given to. For another one those that have an effect on it, except the
    settings of a stage, such as --epochs: they were given for the stages of the one command only.
    """
    from lorachain.chain.effective import dotted_keys, is_effective
    from lorachain.chain.stages import stages_of_command
    from lorachain.config_reading import parse_setting
    from lorachain.data.read_options import options_of
    from lorachain.data.sources import with_defaults

    if command == given_to:
        return common.as_arguments()
    stages = stages_of_command(command)

    def applies(key: str) -> bool:
        measures = command.split()[0] in ("ledger", "dial") and key.partition(".")[0] in MEASURING_KEYS
        return measures or is_effective(key, stages, source_set)

    key_of = {"device": "device", "seed": "seed", "rank": "lora.rank", "save_every": "training.save_every_steps"}
    key_of |= {name: f"sources.{source_set}.{name}" for name in ("plain_text", "dictionary", "exam")}
    key_of["skip_bad_rows"] = f"sources.{source_set}.exam"  # where data is read
    carried = {name: getattr(common, name) for name, key in key_of.items() if applies(key)}
    for kind, values in _reading(common).items():  # a command may not have --encoding: it goes with the source
        options = options_of({**{k: v for k, v in values.items() if k != "columns"}, **values.get("columns", {})}, kind)
        if carried.get(kind):
            carried[kind] = [with_defaults(name, options) for name in carried[kind]]
    settings = [
        setting for setting in common.set or [] if all(applies(key) for key in dotted_keys(parse_setting(setting)))
    ]
    return Common(config=common.config, set=settings or None, **carried).as_arguments()


def build_context(common: Common, command: str, stages: "Sequence[Stage]" = ()) -> "ChainContext":
    """Settings, model entry and terminal. Imports no torch.

    Args:
        command: what is run, for messages.
        stages: the stages that the command runs: stage options (batch size and so on) apply to them, and settings
            that have no effect on them are refused. Empty: the command takes no settings.

    Raises:
        ConfigError, ModelError, WorkspaceError: for what they name.
    """
    from lorachain.chain.context import ChainContext, load_config
    from lorachain.chain.effective import check_effective
    from lorachain.config_reading import parse_setting
    from lorachain.registry import find_entry
    from lorachain.report.console import ConsoleReporter
    from lorachain.workspace import open_workspace

    workspace = open_workspace(common.workspace)
    entry = find_entry(workspace, common.model)
    overrides = [*map(parse_setting, common.set or []), _named_options(common, entry.sources, stages)]
    config = load_config(common.config, overrides)
    if stages:
        for override in overrides:
            check_effective(override, stages, entry.sources, command)
    return ChainContext(
        workspace=workspace,
        model=common.model,
        entry=entry,
        config=config,
        reporter=ConsoleReporter(quiet=not _is_main_process()),
        skip_bad_rows=common.skip_bad_rows,
        accept_harm=common.accept_harm,
        confirm=lambda question: common.yes or _ask(question),
        ask=_ask,
        options_for=lambda proposed: _arguments_for(common, command, proposed, entry.sources),
    )


def check_measuring(settings: list[str] | None, command: str) -> None:
    """Refuses settings that have no effect on `ledger` or `dial`.

    Raises:
        ConfigError: names the first.
    """
    from lorachain.chain.effective import dotted_keys
    from lorachain.config_reading import parse_setting

    for setting in settings or []:
        for key in dotted_keys(parse_setting(setting)):
            if key.partition(".")[0] not in MEASURING_KEYS:
                raise ConfigError(
                    f"{key} has no effect on `lorachain {command}`, which takes the settings that the chain was made "
                    f"with; allowed: {', '.join(MEASURING_KEYS)}"
                )


def _named_options(common: Common, source_set: str, stages: "Sequence[Stage]") -> dict[str, Any]:
    """The named options as settings, nested like the configuration file."""
    training = [stage for stage in stages if stage.kind == "training"]
    per_stage = {
        name: value
        for name in ("max_samples", "learning_rate", "batch_size", "max_length")
        if (value := getattr(common, name)) is not None
    }
    per_name: dict[str, dict[str, Any]] = {stage.name: dict(per_stage) for stage in training}
    for stage, epochs in zip(training, _epochs(common.epochs, training), strict=False):
        per_name[stage.name]["epochs"] = epochs
    overrides: dict[str, Any] = {}
    if settings := {name: values for name, values in per_name.items() if values}:
        overrides["stages"] = settings
    sources = {"plain_text": common.plain_text, "dictionary": common.dictionary, "exam": common.exam}
    if named := {name: value for name, value in sources.items() if value}:
        overrides["sources"] = {source_set: named}
    if reading := _reading(common):
        overrides["reading"] = reading
    if common.ledger_text:
        overrides["ledger"] = {"text": common.ledger_text}
    if common.rank is not None:
        overrides["lora"] = {"rank": common.rank}
    if common.save_every is not None:
        overrides["training"] = _save_every(common.save_every)
    return overrides | {k: v for k, v in (("device", common.device), ("seed", common.seed)) if v is not None}


def _reading(common: Common) -> dict[str, dict[str, Any]]:
    """`--encoding` and `--sheet` for each kind of source that is named, `--columns` for the kinds with its fields.

    Raises:
        ConfigError: no source is named that they could be for, or `--columns` is not as expected.
    """
    from lorachain.data.columns import FIELDS, fields_of, kinds_of_field
    from lorachain.data.read_options import columns_of

    named = [kind for kind in ("plain_text", "dictionary", "exam") if getattr(common, kind)]
    given = {name: value for name in ("encoding", "sheet") if (value := getattr(common, name)) is not None}
    if given and not named:
        option = f"--{next(iter(given))}"
        raise ConfigError(
            f"{option} is for sources that are named with it: give --plain-text, --dictionary or --exam, or set "
            f"reading.KIND.{option[2:]}"
        )
    reading: dict[str, dict[str, Any]] = {kind: dict(given) for kind in named if given}
    for field, column in columns_of(common.columns or "").items():
        kinds = [kind for kind in kinds_of_field(field) if kind in named]
        if not kinds:
            allowed = fields_of([kind for kind in FIELDS if kind in named])
            raise ConfigError(
                f"--columns names the field {field!r}, which no source that is named with it has; allowed: "
                f"{allowed or 'nothing without --plain-text, --dictionary or --exam'}"
            )
        for kind in kinds:
            reading.setdefault(kind, {}).setdefault("columns", {})[field] = column
    return reading


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


def _epochs(given: str | int | None, stages: "Sequence[Stage]") -> list[int]:
    """`1,3,5` as the epochs of each training stage, in order.

    Raises:
        ConfigError: it is not one whole number per stage.
    """
    if given is None:
        return []
    parts = str(given).split(",")
    if len(parts) != len(stages) or not all(part.strip().lstrip("-").isdecimal() for part in parts):
        names = ", ".join(stage.name for stage in stages)
        raise ConfigError(f"--epochs is {given!r}; give one whole number for each of the stages {names}, such as 1,3,5")
    return [int(part) for part in parts]


def _is_main_process() -> bool:
    """Whether this is the only process, or the first of those that a launcher started."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _ask(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(printable(question))


def engine_options(
    engine: str,
    *,
    base_url: str | None,
    completions: bool,
    concurrency: int,
    timeout: float,
    token_budget: int,
    server_model: str | None = None,
) -> "EngineOptions":
    """The options of the engine that generates text; `check_engine_options` refuses what does not fit together."""
    from lorachain.inference.engines.select import EngineName, EngineOptions

    return EngineOptions(
        cast(EngineName, engine),
        base_url,
        server_model,
        interface="completions" if completions else "chat",
        concurrency=concurrency,
        timeout=timeout,
        token_budget=token_budget,
    )


def make_room(out: Path) -> None:
    """Asks whether to move away what is at `--out`; where there is no terminal, the command then refuses it."""
    from lorachain.atomic import make_room
    from lorachain.report.console import ConsoleReporter

    if moved := make_room(out, _ask):
        ConsoleReporter().message(f"{out} is now {moved}")
