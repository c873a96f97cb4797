"""02_reasoning: the chain's own model writes reasoning for the questions that stage 02 trains on."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lorachain.artifacts import TrainingInfo, read_stage_info
from lorachain.artifacts.reasoning import ReasoningReport
from lorachain.atomic import unwritable_as_error
from lorachain.chain.context import ChainContext
from lorachain.chain.lock import model_lock
from lorachain.chain.parents import find_parent
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import ScoredModel, find_scored_model
from lorachain.chain.stages import Stage, find_reasoning_step
from lorachain.chain.written_reasoning import WriterChoice, load_writing_data, write_to, writing_fingerprint
from lorachain.errors import WorkspaceError
from lorachain.inference.engines.base import EngineIdentity
from lorachain.inference.engines.local import LocalEngine
from lorachain.inference.engines.select import EngineOptions, check_engine_options, open_engine
from lorachain.version import __version__
from lorachain.workspace import REASONING_REPORT, TRAINING_INFO


def write_chain_reasoning(context: ChainContext, runtime: Runtime, stage: Stage) -> None:
    """Writes the step's output directory with the parent stage's model.

    Raises:
        WorkspaceError: the parent is missing. DataError: a source, or no question to write for.
    """
    parent = find_parent(context, stage)
    data = load_writing_data(context)
    model = ScoredModel(f"{context.model}:{stage.parent}", parent.base, parent.folder)
    report = write_to(
        context,
        runtime,
        data,
        model,
        choose_writer(runtime, model, EngineOptions(token_budget=context.config.validation.token_budget)),
        context.output(stage),
        by_parent=True,
    )
    context.reporter.message(writing_summary(report))


def write_with(
    context: ChainContext,
    runtime: Runtime,
    what: str,
    out: Path | None,
    *,
    engine: EngineOptions,
    subjects: Sequence[str] | None = None,
) -> ReasoningReport:
    """Writes reasoning with the model `what` (see `find_scored_model`), to `out` or, for None, for the chain.

    Reasoning from other inputs is replaced only after `context.confirm` agreed.

    Args:
        engine: with another one than `local`, `what` only scores how much reasoning supports its answer.

    Raises:
        ConfigError, DataError, EngineError, ModelError, AdapterError, WorkspaceError: for what they name.
    """
    step = find_reasoning_step()
    command = context.command(step.command)
    locked = model_lock(context.workspace, context.model, command) if runtime.processes.main else nullcontext()
    with unwritable_as_error(context.workspace.model_root), locked as lock:
        if lock is not None:
            lock.working_on(step.name)
        model = find_scored_model(context, what)
        data = load_writing_data(context, subjects=subjects)
        choice = choose_writer(runtime, model, engine)
        target = out or context.output(step)
        fingerprint = partial(writing_fingerprint, context, data, model, choice)
        runtime.processes.broadcast(lambda: _confirm_replacement(context, target, fingerprint))
        return write_to(context, runtime, data, model, choice, target, by_parent=False)


def plan_writing(
    context: ChainContext,
    what: str,
    out: Path | None,
    *,
    engine: EngineOptions,
    subjects: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What `write_with` would read and write, without loading weights or connecting to a server.

    Raises:
        ConfigError, DataError, ModelError, AdapterError, WorkspaceError: for what they name.
    """
    check_engine_options(engine)
    model = find_scored_model(context, what)
    data = load_writing_data(context, subjects=subjects)
    samples = context.config.reasoning.samples
    return {
        "writer": engine.server_model or engine.base_url if engine.engine == "openai" else model.name,
        "engine": engine.engine,
        "scored by": model.name,
        "reads": [*context.sources.exam, *context.sources.dictionary],
        "writes": str(out or context.output(find_reasoning_step())),
        "questions": len(data.questions),
        "samples": len(data.questions) * samples,
        "skipped": {reason: count for reason, count in data.skipped.items() if count},
    }


def _confirm_replacement(context: ChainContext, folder: Path, fingerprint: Callable[[], str]) -> None:
    path = folder / REASONING_REPORT
    if not path.is_file() or ReasoningReport.read(path).depends_on_sha256 == fingerprint():
        return
    if not context.confirm(f"Replace the reasoning in {folder}, which had another writer, other data or settings?"):
        raise WorkspaceError(
            f"{folder} has reasoning from another writer, other data or other settings; nothing was changed. "
            "Run again with --yes to replace it, or write to another directory with --out"
        )


def choose_writer(runtime: Runtime, model: ScoredModel, options: EngineOptions) -> WriterChoice:
    """The model itself with the engine `local`, which then also scores; otherwise the engine, connected or started.

    Raises:
        ConfigError, EngineError: see `open_engine`.
    """
    check_engine_options(options)
    if options.engine == "local":
        own = EngineIdentity("local", __version__, model.name, model.for_engine().weights_sha256)
        return WriterChoice(
            identity=own,
            open=lambda weights, encoder: LocalEngine(weights, encoder, own, token_budget=options.token_budget),
            needs_examples=not is_trained_on_reasoning(model),
            chat_turns=True,
        )
    engine = open_engine(options, model.for_engine(), device=runtime.device, dtype=runtime.dtype)
    return WriterChoice(
        identity=engine.identity,
        open=lambda weights, encoder: engine,
        needs_examples=True,
        chat_turns=options.engine != "openai",
    )


def is_trained_on_reasoning(model: ScoredModel) -> bool:
    """Whether the model's adapter was trained on questions with reasoning."""
    if model.adapter is None or not (model.adapter / TRAINING_INFO).is_file():
        return False
    info = read_stage_info(model.adapter)
    return isinstance(info, TrainingInfo) and info.counts.get("questions_with_reasoning", 0) > 0


def writing_summary(report: ReasoningReport) -> str:
    """The funnel in one line."""
    total = report.total
    if not total.drawn:
        return f"none written: {report.skipped['have reasoning']:,} training questions have reasoning already"
    lost = ", ".join(f"{count:,} {check.replace('_', ' ')}" for check, count in total.rejected.items() if count)
    return (
        f"kept {total.kept:,} of {total.drawn:,} samples, for {total.questions_kept:,} of {total.questions:,} questions"
        + (f"; rejected: {lost}" if lost else "")
    )
